"""Structured pruning of any torch module: no cfg, no file format, no data set is known here."""
