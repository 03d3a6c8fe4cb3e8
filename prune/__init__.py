"""Make trained networks small and fast without losing what they learned."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from prune.common.dimensions import IMAGE

# OpenCV reads the header of an image and refuses more pixels than this before it decodes any; it
# looks up its limit, 2^30, only once: when it is first imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(IMAGE))

__version__ = "0.2.0"

if TYPE_CHECKING:
    from prune.api import Graph as Graph
    from prune.api import Plan as Plan
    from prune.api import PruneError as PruneError
    from prune.api import cut as cut
    from prune.api import from_json as from_json
    from prune.api import prove as prove
    from prune.api import select as select
    from prune.api import to_json as to_json
    from prune.api import trace as trace
    from prune.api import verify as verify

_PUBLIC = (
    "Graph",
    "Plan",
    "PruneError",
    "cut",
    "from_json",
    "prove",
    "select",
    "to_json",
    "trace",
    "verify",
)


def __getattr__(name: str) -> Any:
    """Import torch only once one of the public names is used."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'prune' has no attribute {name!r}")
    import prune.api

    return getattr(prune.api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
