"""Exports: ONNX checked against torch, Darknet files."""
