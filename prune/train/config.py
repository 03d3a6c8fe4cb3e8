"""The options of `fit`: one field per option of `prune train`. This file does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prune.common.inputs import shown
from prune.common.size import Size
from prune.errors import InputError

SCHEDULES = ("cosine", "linear", "multistep", "one-cycle", "plateau")
DISTILLATIONS = ("output", "feature", "both")
CACHES = ("ram",)
ANCHORS = ("check", "force")
SERVICES = ("wandb", "mlflow")
# Option -> the names that it can have, beside its default.
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "schedule": SCHEDULES,
    "distill": DISTILLATIONS,
    "cache": CACHES,
    "autoanchor": ANCHORS,
    "log": SERVICES,
}


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    Attributes:
        weights: file of weights to start from: a checkpoint, a public .pt, or Darknet .weights.
        cfg: network to train from scratch, or the cfg of `weights`.
        names: class names of public weights, one by one, with commas between them in one text, or
            a file of names (default: the weights' own).
        decoding: how the heads of public weights decode boxes, "exp" or "sigmoid"
            (default: what the cfg and the file say).
        pt: whether the weights are pruned; being wrong is noted.
        partial: whether to train the network of `cfg` with what fits of `weights`.
        keep_classes: whether the data's class names are new names for the classes of `weights`.
        activation: activation function of all convolutions (default: their own).
        data: the data set: a data.yaml, a Darknet .data file, or a folder.
        strict: whether a broken image stops the run (default: it is left out, with a note).
        img_size: image size in pixels (default: the network's own).
        batch_size: images per batch from 1, or "auto": as many as fit into memory.
        hyp: YAML file of hyper-parameters (default: a recipe that suits the start).
        epochs: passes over the training images, from 1.
        nominal_batch: images per optimizer step; gradients of several batches are accumulated.
        schedule: how the learning rate changes, one of SCHEDULES.
        linear_lr: the same as schedule="linear".
        freeze: layers that do not train, e.g. ("0-20,25",).
        lr_factor: layers and factors of their learning rates, e.g. ("0-60:0.1",).
        seed: of fresh weights, of augmentation and of the order of images.
        deterministic: whether equal runs give equal weights, also on a GPU, where that is slower.
        teacher: checkpoint to distill from, usually the network before it was pruned.
        distill: what is distilled, one of DISTILLATIONS.
        sparsity: kind and strength of a penalty that makes channels fade, e.g. ("bn", 1e-3).
        prune_to: target of pruning while training: "macs:0.5", "macs:30G" or "params:13M".
        prune_every: epochs between two cuts, from 1.
        prune_until: epoch of the last cut, below `epochs`.
        prune_criterion: importance criterion of the cuts, a key of core.importance.CRITERIA.
        single_cls: whether all boxes count as one class, "object".
        image_weights: whether images with rare and badly detected classes are drawn more often.
        autoanchor: "check" fits anchors of a fresh network, "force" those of any network.
        bf16: whether to compute in bfloat16 (default: on GPUs that support it).
        compile: whether torch.compile optimizes the network.
        eager: whether a GPU launches each operation by itself, without CUDA graphs.
        sync_bn: whether BatchNorms of several processes see the whole batch.
        multi_scale: whether each batch has a size of its own, 0.67 to 1.33 times `img_size`.
        cache: "ram" keeps decoded images in memory.
        save_period: epochs between extra checkpoints; 0 for none.
        val_every: epochs between evaluations; 0 for the last epoch alone.
        patience: evaluations without a better fitness after which the run stops; 0 for any number.
        noval: whether the last epoch alone is evaluated.
        no_plots: whether no curves and no confusion matrix are drawn.
        profile: whether time is measured by phase and layer.
        log: service that also shows the figures, one of SERVICES.
        device: "cpu" or the number of a GPU (default: the first GPU, if any).
        workers: loader processes; 0 loads in this one.
        project: folder of runs.
        name: folder of this run in it.
        exist_ok: whether the folder may exist.
        working_folder: folder that paths in the data's description may be relative to
            (default: the current one).

    Raises:
        InputError: the value of an option is none of its names.
    """

    weights: Path | None = None
    cfg: Path | None = None
    names: str | tuple[str, ...] | None = None
    decoding: str | None = None
    pt: bool = False
    partial: bool = False
    keep_classes: bool = False
    activation: str | None = None
    data: Path | None = None
    strict: bool = False
    img_size: Size | None = None
    batch_size: int | Literal["auto"] = 16
    hyp: Path | None = None
    epochs: int = 100
    nominal_batch: int = 64
    schedule: str = "cosine"
    linear_lr: bool = False
    freeze: tuple[str, ...] | None = None
    lr_factor: tuple[str, ...] = ()
    seed: int = 0
    deterministic: bool = False
    teacher: Path | None = None
    distill: str = "output"
    sparsity: tuple[str, float] | None = None
    prune_to: str | None = None
    prune_every: int = 2
    prune_until: int = 20
    prune_criterion: str = "fisher"
    single_cls: bool = False
    image_weights: bool = False
    autoanchor: str | None = None
    bf16: bool = False
    compile: bool = False
    eager: bool = False
    sync_bn: bool = False
    multi_scale: bool = False
    cache: str | None = None
    save_period: int = 0
    val_every: int = 1
    patience: int = 0
    noval: bool = False
    no_plots: bool = False
    profile: bool = False
    log: str | None = None
    device: str = ""
    workers: int = 2
    project: Path = Path("runs/train")
    name: str = "exp"
    exist_ok: bool = False
    working_folder: Path | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value != getattr(TrainConfig, name) and value not in choices:
                option = name.replace("_", "-")
                raise InputError(f"--{option} is {shown(value)}; it must be {' or '.join(choices)}")
