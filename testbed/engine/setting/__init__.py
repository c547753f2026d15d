"""Inputs of a run: data and fleet, models per tier, positions of adversaries."""
