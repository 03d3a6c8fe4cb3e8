"""What brings accuracy back after a cut without training: weights change, shapes never do."""
