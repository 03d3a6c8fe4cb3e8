"""Which channels are removed: constraints, the allocation of a budget, the selection."""
