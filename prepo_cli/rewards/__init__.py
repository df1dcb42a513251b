"""Reward functions, what they count as correct, and the worker processes that check answers."""
