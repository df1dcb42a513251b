"""Datasets: loading, columns, chat rendering and the prompt stream."""
