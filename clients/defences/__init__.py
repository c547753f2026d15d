"""Defences against model inversion, one per file."""
