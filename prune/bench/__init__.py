"""How long files take where they run: runtimes behind one face, timed in turn."""
