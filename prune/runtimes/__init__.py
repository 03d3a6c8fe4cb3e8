"""Runtimes behind one class, what they compute in, and how files are timed in turn."""
