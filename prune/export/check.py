"""Compare an ONNX file in ONNX Runtime with the torch module it was made from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prune.errors import ExportError, first_line
from prune.evaluate.nms import detections

TOLERANCE = 1e-4  # relative; float32 through a hundred layers differs by 1e-6 to 1e-5
FAINT = 1e-2  # a probability far too small for an object
STRAYS = 0.01  # of the boxes; overlaps that equal the threshold but for rounding

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Difference:
    """How far two outputs lie apart at worst.

    `absolute` is in the output's own unit (pixels for boxes), `relative` is max|a - b| / max|b| of
    the quantity that agrees least.
    """

    absolute: float
    relative: float


def random_images(shapes: Iterable[Sequence[int]], *, seed: int = 0) -> list[Tensor]:
    """Draw one batch a shape, [N, 3, H, W] in 0..1."""
    random = torch.Generator().manual_seed(seed)
    return [torch.rand(*shape, generator=random) for shape in shapes]


def compare(path: Path, module: nn.Module, batches: Iterable[Tensor]) -> Difference:
    """Run the file and the module on the same images; return the worst difference.

    Args:
        path: ONNX file that takes "images".
        module: takes [N, 3, H, W] in 0..1, gives a tensor or a tuple of them; on the CPU.
        batches: what both are given, at least one.

    Raises:
        ExportError: the file does not run, or gives other shapes than the module.
    """
    session = _session(path)
    differences = []
    for images in batches:
        with torch.no_grad():
            output = module(images)
        expected = [output] if isinstance(output, Tensor) else list(output)
        found = _run(session, images)
        differences += [difference(a, b.numpy()) for a, b in zip(found, expected, strict=True)]
    return Difference(
        absolute=max(one.absolute for one in differences),
        relative=max(one.relative for one in differences),
    )


def outputs(path: Path, batches: Iterable[Tensor], **numbers: float) -> list[list[Array]]:
    """Run the file on some batches, with `numbers` as its other inputs; give all outputs of each.

    Raises:
        ExportError: the file does not run.
    """
    session = _session(path)
    return [_run(session, images, **numbers) for images in batches]


def telling_score(decoded: Iterable[Array]) -> float:
    """Find a confidence threshold that half of the confidences that occur exceed.

    Above the threshold of detection a random image holds nothing, so that nothing would be
    compared.

    Args:
        decoded: each [N, boxes, 5 + classes].
    """
    best = [(boxes[..., 4:5] * boxes[..., 5:]).max(axis=2).ravel() for boxes in decoded]
    return float(np.median(np.unique(np.concatenate(best))))


def compare_picked(
    found: Sequence[Array], decoded: Array, *, iou: float, confidence: float, limit: int
) -> int:
    """Compare boxes that a file picked with those that `prune.evaluate.nms` picks of the same.

    Args:
        found: boxes [N, limit, 4], scores [N, limit], classes [N, limit], counts [N].
        decoded: [N, boxes, 5 + classes].
        iou: overlap above which the lesser of two boxes goes.
        confidence: lowest one of a box.
        limit: most boxes per image.

    Returns:
        How many boxes were compared.

    Raises:
        ExportError: more than STRAYS of the boxes (of fewer than 100: one) differ.
    """
    expected = detections(
        torch.from_numpy(decoded),
        confidence=confidence,
        iou=iou,
        max_detections=limit,
        multi_label=False,
    )
    boxes, scores, classes, counts = found
    for image, rows in enumerate(expected):
        own = np.column_stack((boxes[image], scores[image], classes[image]))
        shared = _shared(own[: counts[image]], rows.numpy())
        strays = max(len(rows), int(counts[image])) - shared
        if strays > STRAYS * len(rows):
            raise ExportError(
                f"the file picks {counts[image]} boxes, prune's own suppression {len(rows)}, "
                f"of which {shared} are the same"
            )
    return sum(map(len, expected))


def _shared(mine: Array, theirs: Array) -> int:
    """Count the boxes that both sides have, [n, 6] and [m, 6]; rounding does not matter."""
    allowed = 1e-3 + 1e-5 * np.abs(theirs)
    allowed[:, 4] = 1e-3 * theirs[:, 4]  # a network that knows nothing scores far below 1e-3
    close = np.abs(mine[:, None] - theirs[None]) < allowed  # [n, m, 6]
    return int(np.any(np.all(close, axis=2), axis=1).sum())


def difference(found: Array, expected: Array) -> Difference:
    """Compare one output, [N, boxes, 5 + classes] or a head map [N, C, ny, nx].

    Boxes and probabilities are compared apart: beside box pixels up to 1e3, an error in a
    probability would never show. Where nothing is above FAINT, errors are set against that: what
    sigmoid gives far from zero is the runtime's own. A NaN counts as infinitely far.

    Raises:
        ExportError: the shapes differ.
    """
    if found.shape != expected.shape:
        raise ExportError(
            f"ONNX Runtime gives {list(found.shape)} where torch gives {list(expected.shape)}"
        )
    decoded = expected.ndim == 3
    parts = [np.s_[..., :4], np.s_[..., 4:]] if decoded else [np.s_[...]]
    least = FAINT if decoded else 1e-12
    absolutes = [_worst(found[part] - expected[part]) for part in parts]
    scales = [max(_worst(expected[part]), least) for part in parts]
    return Difference(
        absolute=max(absolutes),
        relative=max(a / scale for a, scale in zip(absolutes, scales, strict=True)),
    )


def _worst(values: Array) -> float:
    worst = float(np.abs(values).max(initial=0))
    return worst if np.isfinite(worst) else float("inf")


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its error classes derive from Exception and are not public
        raise ExportError(f"ONNX Runtime cannot load the file: {first_line(error)}") from error


def _run(session: onnxruntime.InferenceSession, images: Tensor, **numbers: float) -> list[Array]:
    given = {name: np.array(value, np.float32) for name, value in numbers.items()}
    try:
        found: list[Array] = session.run(None, {"images": images.numpy(), **given})
    except Exception as error:  # as above
        raise ExportError(f"ONNX Runtime cannot run the file: {first_line(error)}") from error
    return found
