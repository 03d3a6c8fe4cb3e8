"""Prune to a latency: layers are timed on this machine, a model predicts, a knapsack chooses."""
