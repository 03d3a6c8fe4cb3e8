"""Prune by a saved plan, which may have been edited by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prune.common.inputs import printable, read_text
from prune.common.notes import Report
from prune.core.plan import from_json
from prune.errors import PlanError
from prune.pruner.config import PruneConfig
from prune.pruner.session import Choice, Session


@dataclass(frozen=True)
class ApplyConfig(PruneConfig):
    """`prune apply`.

    Attributes:
        plan: the plan, JSON.
    """

    command: ClassVar[str] = "apply"

    out: Path = Path("model_data/applied_pruning.pt")
    plan: Path = Path("plan.json")

    def choose(self, session: Session, report: Report) -> Choice:
        """See `PruneConfig`."""
        plan = from_json(read_text(self.plan, "json"), where=printable(str(self.plan)))
        if not plan.blocks and not any(cut.remove for cut in plan.cuts):
            raise PlanError(f"nothing to remove: {self.plan} names no channels and no blocks")
        return Choice(plan, source=self.plan)
