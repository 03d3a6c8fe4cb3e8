"""INT8: which parts of an ONNX file are quantised, from which ranges, at what loss of score."""
