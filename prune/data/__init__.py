"""Images and boxes: data sets made, read, checked, augmented and batched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune.common.lazy_names import lazy_names

if TYPE_CHECKING:
    from prune.data.datasets import CocoConfig as CocoConfig
    from prune.data.datasets import DataResult as DataResult
    from prune.data.datasets import ShapesConfig as ShapesConfig
    from prune.data.datasets import VocConfig as VocConfig
    from prune.data.datasets import check_data as check_data
    from prune.data.datasets import convert_coco as convert_coco
    from prune.data.datasets import convert_voc as convert_voc
    from prune.data.datasets import draw_shapes as draw_shapes
else:  # so that mypy does not take every name for one of the package's
    _NAMES = (
        *("CocoConfig", "DataResult", "ShapesConfig", "VocConfig"),
        *("check_data", "convert_coco", "convert_voc", "draw_shapes"),
    )
    __getattr__ = lazy_names(__name__, dict.fromkeys(_NAMES, "datasets"))
