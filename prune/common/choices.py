"""Names that options take and --help lists, where what they stand for would import too much."""

# prune.models.layers: activations that a network can be trained to use instead of its own.
ACTIVATIONS = ("relu", "relu6", "leaky", "hardswish", "silu", "mish")
DECODINGS = ("exp", "sigmoid")  # prune.checkpoint.foreign.decoding
FORMATS = ("onnx", "ncnn", "darknet", "yolor")  # prune.export.formats.FORMATS
INT8_METHODS = ("minmax", "percentile", "entropy")  # prune.quantize.calibrate.METHODS
INT8_RUNTIMES = ("onnxruntime", "openvino")  # prune.quantize.parts.OPERATORS
