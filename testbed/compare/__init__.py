"""Compares runs made apart: several seeds of a scenario, or several scenarios on the same data."""
