"""Datasets: tables, columns, validation, chat rendering and the prompt stream."""
