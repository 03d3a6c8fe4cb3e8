"""What a detector finds and how well: boxes on images, metrics on a split of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune.common.lazy_names import lazy_names

if TYPE_CHECKING:
    from prune.evaluate.detection import DetectConfig as DetectConfig
    from prune.evaluate.detection import DetectResult as DetectResult
    from prune.evaluate.detection import detect as detect
    from prune.evaluate.validation import EvaluateConfig as EvaluateConfig
    from prune.evaluate.validation import EvaluateResult as EvaluateResult
    from prune.evaluate.validation import evaluate as evaluate
else:  # so that mypy does not take every name for one of the package's
    __getattr__ = lazy_names(
        __name__,
        {
            **dict.fromkeys(("DetectConfig", "DetectResult", "detect"), "detection"),
            **dict.fromkeys(("EvaluateConfig", "EvaluateResult", "evaluate"), "validation"),
        },
    )
