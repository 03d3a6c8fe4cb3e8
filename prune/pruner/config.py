"""Options that all pruning commands share, as frozen configs; each command chooses in its own way.

A config has one field per option of its command, named and preset as on the command line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prune.checkpoint.reading import Names
from prune.common.notes import Report
from prune.core.importance.own_criteria import CriterionLike
from prune.pruner.session import Choice, Session


@dataclass(frozen=True)
class PruneConfig(ABC):
    """The options of every pruning command.

    Attributes:
        weights: the checkpoint to prune, or public weights.
        cfg: cfg of public weights; None for what the file says.
        names: class names, or a file with one per line; None for the file's own.
        decoding: how the heads of public weights decode boxes, "exp" or "sigmoid"; None for what
            the cfg and the file say.
        out: the checkpoint to write.
        plan_out: the plan to write, JSON; None for none.
        dry_run: verify, but write no checkpoint.
        data: a data set for everything below that needs images and names none of its own.
        device: "", "cpu" or the number of a GPU; "" takes a GPU if there is one.
        seed: of all that is drawn at random.
        activation: activation that replaces every nonlinear one; None leaves them.
        compensate: whether to add the mean output of pruned channels to the next layer; a path
            names the data set of its images, and True takes `data`, or BatchNorm statistics.
        reconstruct: whether to fit the weights behind the cut to the original's outputs by least
            squares; a path names the data set of its images, and True takes `data`.
        recalibrate: whether to compute BatchNorm statistics anew; as `reconstruct`.
        recover_images: number of training images of these steps, at least 1.
        recover_memory: memory of `reconstruct` in GiB, at least 0.25.
        score: evaluate before, after the cut and after each step; undo a step that lowers the mAP.
    """

    command: ClassVar[str]

    weights: Path = Path("whole_model.pt")
    cfg: Path | None = None
    names: Names | None = None
    decoding: str | None = None
    out: Path = Path("model_data/pruning.pt")
    plan_out: Path | None = None
    dry_run: bool = False
    data: Path | None = None
    device: str = ""
    seed: int = 0
    activation: str | None = None
    compensate: Path | bool = False
    reconstruct: Path | bool = False
    recalibrate: Path | bool = False
    recover_images: int = 200
    recover_memory: float = 4.0
    score: bool = False

    @property
    def recovers(self) -> bool:
        """Whether a recovery, another activation or an evaluation is requested."""
        steps = (self.compensate, self.reconstruct, self.recalibrate)
        return self.score or bool(self.activation) or any(step is not False for step in steps)

    @abstractmethod
    def choose(self, session: Session, report: Report) -> Choice:
        """Choose what is removed from the network of a session.

        Raises:
            PruneError: nothing would be removed, or an option cannot be used.
        """


@dataclass(frozen=True)
class ImportanceConfig(PruneConfig):
    """The options of commands that prune channels by their importance.

    Attributes:
        criterion: name of a criterion, "file.py:name", or a function, see `own_criteria.find`; None
            takes fisher with `data`, else l1.
        scope: "root" or "group": importance by the first layer of a group or by all its layers.
        normalize: "none", "mean", "max" or "sum": what the importance is divided by per group.
        images: number of training images of `data` that a criterion looks at, at least 1.
    """

    criterion: CriterionLike | None = "l1"
    scope: str = "root"
    normalize: str = "none"
    images: int = 64
