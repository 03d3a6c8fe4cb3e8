"""What each coupled group costs in accuracy: cut alone by masking, scored, saved over compute."""
