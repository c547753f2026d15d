"""Sweeps: one scenario file that stands for many runs, and several files run as one batch."""
