"""Checkpoints: our own file, public ones that are converted, a summary of either."""
