"""Darknet networks: cfg text, layers, heads."""
