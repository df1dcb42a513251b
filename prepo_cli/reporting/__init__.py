"""Metrics, progress, figures and comparisons."""
