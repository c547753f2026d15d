"""Accuracy against attack error of many defences under one training budget."""
