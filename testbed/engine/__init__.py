"""Carries Flower messages to hosts, keeps virtual time and the ledger, feeds the taps."""
