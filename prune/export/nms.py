"""Non-maximum suppression as part of an ONNX file, by the rules of `prune.evaluate.nms`.

A box has its best class only. The operators are those of opset 11 in the form that has not changed
since, so the same text serves every opset.
"""

import numpy as np
import onnx
from onnx import numpy_helper

from prune.export.exporters import Shape

THRESHOLDS = {"iou_threshold": 0.45, "score_threshold": 0.25}
"""The optional inputs and their defaults, those of `prune detect`."""

# numbers is 5 + classes, K the most boxes per image, B the boxes before, M the picked ones.
_GRAPH = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
nms (
    float[batch, anchors, {numbers}] output, float iou_threshold, float score_threshold
) => (
    float[{batch}, {limit}, 4] boxes, float[{batch}, {limit}] scores,
    int64[{batch}, {limit}] classes, int64[{batch}] counts
) {{
    nms_0 = Constant <value = int64[1] {{0}}> ()
    nms_1 = Constant <value = int64[1] {{1}}> ()
    nms_2 = Constant <value = int64[1] {{2}}> ()
    nms_4 = Constant <value = int64[1] {{4}}> ()
    nms_5 = Constant <value = int64[1] {{5}}> ()
    nms_end = Constant <value = int64[1] {{{numbers}}}> ()
    nms_limit = Constant <value = int64[1] {{{limit}}}> ()
    nms_zero = Constant <value = float {{0.0}}> ()
    nms_half = Constant <value = float {{0.5}}> ()
    nms_none = Constant <value = float {{-1.0}}> ()
    nms_no_class = Constant <value = int64 {{-1}}> ()
    nms_no_box = Constant <value = int64 {{0}}> ()
    nms_huge = Constant <value = float {{3.0e38}}> ()
    nms_matrix = Constant <value = int64[2] {{0, -1}}> ()
    nms_column = Constant <value = int64[3] {{0, -1, 1}}> ()
    nms_sides = Constant <value = int64[3] {{1, 1, 4}}> ()
    nms_place_columns = Constant <value = int64[2] {{0, 2}}> ()
    nms_pads = Constant <value = int64[4] {{0, 0, 0, {limit}}}> ()

    nms_xy = Slice (output, nms_0, nms_2, nms_2)
    nms_wh = Slice (output, nms_2, nms_4, nms_2)
    nms_object = Slice (output, nms_4, nms_5, nms_2)
    nms_class = Slice (output, nms_5, nms_end, nms_2)
    nms_reach = Mul (nms_wh, nms_half)
    nms_low = Sub (nms_xy, nms_reach)
    nms_high = Add (nms_xy, nms_reach)
    nms_corners = Concat <axis = 2> (nms_low, nms_high)

    nms_joint = Mul (nms_class, nms_object)
    nms_best, nms_label = TopK <axis = 2> (nms_joint, nms_1)
    nms_above = Greater (nms_wh, nms_zero)
    nms_below = Less (nms_wh, nms_huge)
    nms_sound = And (nms_above, nms_below)
    nms_width_sound = Slice (nms_sound, nms_0, nms_1, nms_2)
    nms_height_sound = Slice (nms_sound, nms_1, nms_2, nms_2)
    nms_is_box = And (nms_width_sound, nms_height_sound)
    nms_score = Where (nms_is_box, nms_best, nms_none)

    nms_is_label = Equal (nms_label, nms_numbers)
    nms_by_class = Where (nms_is_label, nms_score, nms_none)
    nms_rows = Transpose <perm = [0, 2, 1]> (nms_by_class)
    nms_threshold = Max (score_threshold, nms_zero)
    nms_picked = NonMaxSuppression (
        nms_corners, nms_rows, nms_limit, iou_threshold, nms_threshold
    )

    nms_place = Gather <axis = 1> (nms_picked, nms_place_columns)
    nms_flat = Reshape (nms_score, nms_matrix)
    nms_found = GatherND (nms_flat, nms_place)
    nms_size = Shape (nms_flat)
    nms_empty = ConstantOfShape <value = float[1] {{-1.0}}> (nms_size)
    nms_kept = ScatterND (nms_empty, nms_place, nms_found)
    nms_padded = Pad (nms_kept, nms_pads, nms_none)
    nms_values, nms_order = TopK <axis = 1> (nms_padded, nms_limit)

    nms_is_kept = Greater (nms_values, nms_zero)
    nms_index = Where (nms_is_kept, nms_order, nms_no_box)
    nms_index_column = Reshape (nms_index, nms_column)
    nms_index_sides = Expand (nms_index_column, nms_sides)
    nms_all_boxes = GatherElements <axis = 1> (nms_corners, nms_index_sides)
    nms_all_labels = Reshape (nms_label, nms_matrix)
    nms_labels = GatherElements <axis = 1> (nms_all_labels, nms_index)
    nms_is_kept_column = Reshape (nms_is_kept, nms_column)

    boxes = Where (nms_is_kept_column, nms_all_boxes, nms_zero)
    scores = Where (nms_is_kept, nms_values, nms_zero)
    classes = Where (nms_is_kept, nms_labels, nms_no_class)
    nms_marks = Cast <to = 1> (nms_is_kept)
    nms_total = MatMul (nms_marks, nms_ones)
    counts = Cast <to = 7> (nms_total)
}}
"""


def output_shapes(batch: int | str, limit: int) -> dict[str, Shape]:
    """Return the shapes of the outputs: boxes, scores, classes, counts.

    Boxes are in pixels (x1, y1, x2, y2), the most confident first; behind `counts` boxes and scores
    are 0, classes -1.
    """
    return {
        "boxes": (batch, limit, 4),
        "scores": (batch, limit),
        "classes": (batch, limit),
        "counts": (batch,),
    }


def append(model: onnx.ModelProto, *, batch: int | str, limit: int) -> None:
    """Have a file suppress its own boxes; its only output must be "output".

    The two thresholds become inputs with a default, so that a runtime may be called without them.

    Args:
        model: gives decoded boxes, [N, boxes, 5 + classes].
        batch: images per run, or what an open number of them is called.
        limit: most boxes per image.
    """
    numbers = model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    versions = {one.domain: one.version for one in model.opset_import}
    added = onnx.parser.parse_model(
        _GRAPH.format(
            ir_version=model.ir_version,
            opset=versions[""],
            numbers=numbers,
            batch=batch,
            limit=limit,
        )
    ).graph
    model.graph.node.extend(added.node)
    model.graph.input.extend(list(added.input)[1:])
    del model.graph.output[:]
    model.graph.output.extend(added.output)
    constants = {
        **{name: np.array(value, np.float32) for name, value in THRESHOLDS.items()},
        "nms_numbers": np.arange(numbers - 5)[None, None],  # [1, 1, classes]
        "nms_ones": np.ones(limit, np.float32),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
