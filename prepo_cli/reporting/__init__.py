"""Run folders, summaries, trackers, figures, comparisons and model cards."""
