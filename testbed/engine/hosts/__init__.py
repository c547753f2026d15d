"""Processes that simulate devices and run attacks."""
