"""Files that other programs run: ONNX, ncnn, Darknet and YOLOR, compared with torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune.common.lazy_names import lazy_names

if TYPE_CHECKING:
    from prune.export.formats import ExportConfig as ExportConfig
    from prune.export.formats import ExportResult as ExportResult
    from prune.export.formats import export as export
    from prune.export.formats import to_onnx as to_onnx
    from prune.export.whole import WholeConfig as WholeConfig
    from prune.export.whole import WholeResult as WholeResult
    from prune.export.whole import to_checkpoint as to_checkpoint
else:  # so that mypy does not take every name for one of the package's
    __getattr__ = lazy_names(
        __name__,
        {
            **dict.fromkeys(("ExportConfig", "ExportResult", "export", "to_onnx"), "formats"),
            **dict.fromkeys(("WholeConfig", "WholeResult", "to_checkpoint"), "whole"),
        },
    )
