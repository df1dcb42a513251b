"""Sampling k answers to each prompt, and what they say."""
