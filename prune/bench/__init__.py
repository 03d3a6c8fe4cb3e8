"""How long files take where they run: every file in every runtime, timed in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune.common.lazy_names import lazy_names

if TYPE_CHECKING:
    from prune.bench.side_by_side import BenchConfig as BenchConfig
    from prune.bench.side_by_side import BenchResult as BenchResult
    from prune.bench.side_by_side import BenchRow as BenchRow
    from prune.bench.side_by_side import compare as compare
else:  # so that mypy does not take every name for one of the package's
    _NAMES = ("BenchConfig", "BenchResult", "BenchRow", "compare")
    __getattr__ = lazy_names(__name__, dict.fromkeys(_NAMES, "side_by_side"))
