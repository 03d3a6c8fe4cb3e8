"""INT8: which parts of an ONNX file are quantised, from which ranges, at what loss of mAP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune.common.lazy_names import lazy_names

if TYPE_CHECKING:
    from prune.quantize.run import QuantizeConfig as QuantizeConfig
    from prune.quantize.run import QuantizeResult as QuantizeResult
    from prune.quantize.run import quantize as quantize
else:  # so that mypy does not take every name for one of the package's
    _NAMES = ("QuantizeConfig", "QuantizeResult", "quantize")
    __getattr__ = lazy_names(__name__, dict.fromkeys(_NAMES, "run"))
