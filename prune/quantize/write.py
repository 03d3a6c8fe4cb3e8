"""A float model and its ranges -> the model with some layers in INT8 (QDQ)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnxruntime.quantization import QDQQuantizer, QuantType, TensorsData


def in_int8(
    model: onnx.ModelProto,
    seen: TensorsData,
    *,
    operators: Sequence[str],
    floating: Collection[str],
    open_ended: Sequence[str] = (),
    seven_bits: bool = False,
) -> onnx.ModelProto:
    """Quantise a model: weights by channel, symmetric, activations unsigned, by tensor.

    Args:
        model: every node with a name of its own; it is not changed.
        seen: ranges of its tensors.
        operators: kinds of nodes to quantise.
        floating: names of nodes that stay in float.
        open_ended: kinds of nodes whose outputs are left as they are.
        seven_bits: weights of 7 bits, whose sums fit 16 bits on processors without VNNI.
    """
    # An empty list would be taken for all kinds.
    options = {"OpTypesToExcludeOutputQuantization": [*open_ended]} if open_ended else {}
    with np.errstate(invalid="ignore"):  # padding before a MaxPool is -inf, and stays in float
        writer = QDQQuantizer(
            copy.deepcopy(model),
            per_channel=True,
            reduce_range=seven_bits,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=copy.deepcopy(seen),  # it narrows ranges before a ReLU
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(floating),
            op_types_to_quantize=list(operators),
            extra_options=options,
        )
        writer.quantize_model()
    writer.model.topological_sort()  # it appends what it adds
    written: onnx.ModelProto = writer.model.model
    return written
