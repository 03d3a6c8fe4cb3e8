"""Pruning to milliseconds: layers measured on this machine, a model of the network, a knapsack."""
