"""Runs side by side: read or train them, compare them with uncertainty, draw them, write the page."""
