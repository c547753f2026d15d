"""The scenario file: its sections, its adversaries, and loading it with clear errors."""
