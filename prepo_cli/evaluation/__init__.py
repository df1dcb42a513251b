"""Evaluation: k sampled answers to each prompt, and the perplexity of prompts."""
