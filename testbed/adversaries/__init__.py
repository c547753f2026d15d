"""Attacks on intercepted features, one per file."""
