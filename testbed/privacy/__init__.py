"""Scores of reconstructions, intervals and measures of leakage."""
