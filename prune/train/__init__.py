"""Training: loss, assignment, optimiser, schedule and the loop."""
