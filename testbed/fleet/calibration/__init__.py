"""Latency calibration from published measurements; builds the catalogue and the residual table."""
