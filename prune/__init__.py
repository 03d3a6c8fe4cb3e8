"""Make trained networks small and fast without losing what they learned."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prune.common.dimensions import IMAGE
from prune.common.lazy_names import lazy_names

# OpenCV reads the header of an image and refuses more pixels than this before it decodes any; it
# looks up its limit, 2^30, only once: when it is first imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(IMAGE))

__version__ = "0.2.0"

if TYPE_CHECKING:
    from prune.api import Graph as Graph
    from prune.api import count as count
    from prune.api import cut as cut
    from prune.api import from_json as from_json
    from prune.api import prove as prove
    from prune.api import recover as recover
    from prune.api import select as select
    from prune.api import to_json as to_json
    from prune.api import trace as trace
    from prune.api import verify as verify
    from prune.core.cost.macs import Cost as Cost
    from prune.core.importance.criteria import Criterion as Criterion
    from prune.core.plan import Cut as Cut
    from prune.core.plan import Plan as Plan
    from prune.core.trace.groups import Group as Group
    from prune.detector import Detector as Detector
    from prune.errors import CfgError as CfgError
    from prune.errors import CheckpointError as CheckpointError
    from prune.errors import DataError as DataError
    from prune.errors import DeviceError as DeviceError
    from prune.errors import ExportError as ExportError
    from prune.errors import ForeignError as ForeignError
    from prune.errors import InputError as InputError
    from prune.errors import LoaderError as LoaderError
    from prune.errors import OffTargetError as OffTargetError
    from prune.errors import OutOfReachError as OutOfReachError
    from prune.errors import PlanError as PlanError
    from prune.errors import PruneError as PruneError
    from prune.errors import RunError as RunError
    from prune.errors import TrainError as TrainError
    from prune.errors import VerificationError as VerificationError
    from prune.errors import WithinBudgetError as WithinBudgetError
    from prune.errors import WriteError as WriteError

# Module -> the public names that it defines; it is imported once one of them is used.
_NAMES: dict[str, tuple[str, ...]] = {
    "api": (
        "Graph",
        "count",
        "cut",
        "from_json",
        "prove",
        "recover",
        "select",
        "to_json",
        "trace",
        "verify",
    ),
    "core.cost.macs": ("Cost",),
    "core.importance.criteria": ("Criterion",),
    "core.plan": (
        "Cut",
        "Plan",
    ),
    "core.trace.groups": ("Group",),
    "detector": ("Detector",),
    "errors": (
        "CfgError",
        "CheckpointError",
        "DataError",
        "DeviceError",
        "ExportError",
        "ForeignError",
        "InputError",
        "LoaderError",
        "OffTargetError",
        "OutOfReachError",
        "PlanError",
        "PruneError",
        "RunError",
        "TrainError",
        "VerificationError",
        "WithinBudgetError",
        "WriteError",
    ),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:  # so that mypy does not take every name for one of the package's
    __getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
