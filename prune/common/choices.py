"""Names that options take and --help lists, where what they stand for would import too much."""

# prune.models.layers: activations that a network can be trained to use instead of its own.
ACTIVATIONS = ("relu", "relu6", "leaky", "hardswish", "silu", "mish")
# prune.core.select.allocation.ALLOCATIONS
ALLOCATIONS = ("uniform", "global", "per-cost", "isomorphic", "sensitivity")
BLOCK_CRITERIA = ("output", "l1", "bn", "random")  # prune.pruner.block_importance.CRITERIA
# prune.core.importance.criteria.CRITERIA
CRITERIA = ("l1", "l2", "bn", "fpgm", "lamp", "taylor", "fisher", "activation", "random")
DECODINGS = ("exp", "sigmoid")  # prune.checkpoint.foreign.decoding
FORMATS = ("onnx", "ncnn", "darknet", "yolor")  # prune.export.formats.FORMATS
INT8_METHODS = ("minmax", "percentile", "entropy")  # prune.quantize.calibrate.METHODS
INT8_RUNTIMES = ("onnxruntime", "openvino")  # prune.quantize.parts.OPERATORS
LATENCY_RUNTIMES = ("onnxruntime", "openvino")  # that report the time of each layer
NORMALIZERS = ("none", "mean", "max", "sum")  # prune.core.importance.group_importance
SCOPES = ("root", "group")  # of a criterion: the first layer of a group, or all its layers
SENSITIVITY_METRICS = ("map", "loss")  # prune.pruner.sensitivity.metrics.METRICS
