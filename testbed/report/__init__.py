"""Reads a results folder and writes plots, tables and report.html."""
