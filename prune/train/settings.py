"""The options of a run, checked and fitted to its network and device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from prune.common import layer_ranges
from prune.common.inputs import shown
from prune.common.notes import Report
from prune.common.size import Size
from prune.errors import InputError
from prune.train import sampling
from prune.train.optim import SHAPES
from prune.train.sparsity import Sparsity

if TYPE_CHECKING:
    from prune.train.config import TrainConfig
    from prune.train.initial_weights import Source

PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Option --distill -> what of a teacher is distilled.
DISTILLED: dict[str, tuple[str, ...]] = {
    "output": ("output",),
    "feature": ("feature",),
    "both": ("output", "feature"),
}
# Least and greatest value of each count: the greatest lies above any use, and below what a float
# or a list cannot contain.
_BOUNDS = {
    "epochs": (1, 10**6),
    "batch_size": (1, 10**6),
    "nominal_batch": (1, 10**9),
    "seed": (0, 2**63 - 1),
    "val_every": (0, 10**9),
    "save_period": (0, 10**9),
    "patience": (0, 10**9),
}


@dataclass(frozen=True)
class Settings:
    """What the training loop needs to know of a run: its options, fitted to network and device.

    Attributes:
        epochs: passes over the training images.
        imgsz: image size in pixels, a multiple of the network's stride.
        batch_size: images per batch.
        nominal_batch: images per optimizer step; gradients of several batches are accumulated.
        seed: of all that is random.
        schedule: a key of `schedule.SHAPES`.
        val_every: epochs between evaluations; 0 for the last epoch alone.
        save_period: epochs between extra checkpoints; 0 for none.
        image_weights: whether images of badly detected classes are drawn more often.
        precision: of the convolutions, a key of PRECISIONS.
        patience: evaluations without a better fitness that end the run; 0 for any number.
        lr_factors: index of a layer -> factor of its learning rate.
        distill: what is distilled from a teacher, a key of DISTILLED.
        sparsity: penalty that makes channels fade.
        eager: whether a GPU launches each operation by itself, without CUDA graphs.
        compiled: whether torch.compile optimizes the network.
        multi_scale: whether each batch has a size of its own.
        profile: whether time is measured by phase and layer.
        best_after: number of first epochs that cannot be the best: those before the last cut of a
            run that prunes.
        sync_bn: whether BatchNorms see the whole batch of several processes.

    Raises:
        InputError: a number is out of its range, a name is unknown, the schedule or the patience
            needs evaluations and there are none, or `compiled` is given with `sync_bn`.
    """

    epochs: int
    imgsz: Size
    batch_size: int = 16
    nominal_batch: int = 64
    seed: int = 0
    schedule: str = "cosine"
    val_every: int = 1
    save_period: int = 0
    image_weights: bool = False
    precision: str = "float32"
    patience: int = 0
    lr_factors: Mapping[int, float] = field(default_factory=dict)
    distill: str = "output"
    sparsity: Sparsity | None = None
    eager: bool = False
    compiled: bool = False
    multi_scale: bool = False
    profile: bool = False
    best_after: int = 0
    sync_bn: bool = False

    def __post_init__(self) -> None:
        if min(self.imgsz) < 1:
            raise InputError(f"--img-size is {self.imgsz}; it must be 1 or more")
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                rule = f"{low} or more" if value < low else f"{high:,} or less"
                option = name.replace("_", "-")
                raise InputError(f"--{option} is {shown(value)}; it must be {rule}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}; it can be {', '.join(PRECISIONS)}")
        if self.distill not in DISTILLED:
            raise InputError(f"distill is {self.distill!r}; it can be {', '.join(DISTILLED)}")
        if self.schedule not in SHAPES:
            raise InputError(f"schedule is {self.schedule!r}; it can be {', '.join(SHAPES)}")
        for name, used in ("plateau", self.schedule == "plateau"), ("patience", self.patience):
            if used and not self.val_every:
                raise InputError(f"{name} needs epochs that are evaluated; leave out --noval")
        if self.compiled and self.sync_bn:
            raise InputError("--sync-bn does not go with --compile; leave one of them out")

    @property
    def dtype(self) -> torch.dtype:
        """The type that convolutions compute in."""
        return PRECISIONS[self.precision]

    @property
    def accumulate(self) -> int:
        """Batches per optimizer step."""
        return max(1, round(self.nominal_batch / self.batch_size))

    def distills(self, what: str) -> bool:
        """Tell whether a teacher's "output" or "feature" counts, if there is a teacher."""
        return what in DISTILLED[self.distill]

    def graphed(self, device: torch.device) -> bool:
        """Tell whether CUDA graphs are used: all batches have one shape, no phase is timed."""
        return device.type == "cuda" and not (self.eager or self.profile or self.multi_scale)

    def evaluates(self, epoch: int) -> bool:
        """Tell whether this epoch, counted from 0, ends with an evaluation."""
        due = self.val_every > 0 and (epoch + 1) % self.val_every == 0
        return due or epoch + 1 == self.epochs

    @property
    def plateau(self) -> int:
        """Evaluations without a better one that lower the rate: 5, in a long run 10 % of all."""
        return max(5, round(0.1 * sum(map(self.evaluates, range(self.epochs)))))


def settings_of(config: TrainConfig, source: Source, *, device: str, report: Report) -> Settings:
    """Fit a run's options to its network and its device.

    Args:
        config: the options. A batch size of "auto" counts as 1 until the memory is known.
        source: the network to train.
        device: the kind of device, "cpu" or "cuda".
        report: takes a note on an image size that is not a multiple of the stride.

    Raises:
        InputError: a value that no run can have.
        PlanError: learning rate factors for layers that do not exist.
    """
    stride = source.net.stride
    requested = source.imgsz if config.img_size is None else config.img_size
    imgsz = requested.raised(stride)
    if imgsz != requested:
        report(
            f"note: image size {requested} is raised to {imgsz}, a multiple of the stride {stride}"
        )
    if config.multi_scale and len(sampling.possible_sizes(imgsz, stride=stride)) == 1:
        raise InputError(
            f"--multi-scale has one size alone for images of {imgsz} pixels and a stride of "
            f"{stride}; give --img-size {3 * stride} or more"
        )
    return Settings(
        epochs=config.epochs,
        imgsz=imgsz,
        batch_size=1 if config.batch_size == "auto" else config.batch_size,
        nominal_batch=config.nominal_batch,
        seed=config.seed,
        schedule="linear" if config.linear_lr else config.schedule,
        val_every=0 if config.noval else config.val_every,
        save_period=config.save_period,
        image_weights=config.image_weights,
        precision="bfloat16" if config.bf16 else _fastest_precision(device),
        patience=config.patience,
        lr_factors=layer_ranges.read_factors(config.lr_factor, len(source.net.layers)),
        distill=config.distill,
        sparsity=Sparsity(*config.sparsity) if config.sparsity else None,
        eager=config.eager,
        compiled=config.compile,
        sync_bn=config.sync_bn,
        multi_scale=config.multi_scale,
        profile=config.profile,
    )


def _fastest_precision(device: str) -> str:
    """Return the fastest precision that trains as well as float32 on this kind of device."""
    if device != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
