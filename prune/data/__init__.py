"""Images and boxes: data sets read, checked, augmented and batched."""
