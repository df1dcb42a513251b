"""Reward functions and the pool of processes they run in."""
