"""Setting."""
