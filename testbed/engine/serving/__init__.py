"""Serving: requests, their times, the cloud's queue and its cost."""
