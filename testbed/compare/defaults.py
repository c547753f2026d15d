"""Defaults of a comparison, which its command line shows without importing it."""

RESAMPLES = 1000
MAX_ACCURACY_LOSS = 0.03
