"""How a network is trained: the options of `prune train` beside the network and the data."""

from __future__ import annotations

import argparse

from prune.cli import options
from prune.train.config import ANCHORS, CACHES, DISTILLATIONS, SCHEDULES, SERVICES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the recipe, of speed, and of what is evaluated, saved and shown."""
    _add_recipe(parser)
    _add_distillation_and_sparsity(parser)
    _add_pruning(parser)
    _add_fitting(parser)
    _add_speed(parser)
    _add_saving(parser)
    _add_watching(parser)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hyp",
        type=options.path_or_none,
        metavar="YAML",
        help="file of hyper-parameters; missing ones are as in cfg/hyp/scratch.yaml, or as in "
        "finetune.yaml with --weights",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=100,
        metavar="N",
        help="passes over the training images (default 100)",
    )
    parser.add_argument(
        "--nominal-batch",
        type=int,
        default=64,
        metavar="N",
        help="effective batch size: gradients are accumulated over this many images per optimizer "
        "step, over fewer in the first 1000 batches (default 64)",
    )
    _add_schedule(parser)
    parser.add_argument(
        "--freeze",
        nargs="+",
        metavar="LAYERS",
        help="layers that are not trained, e.g. 0-20,25 (10 is layer 10 alone; 0-9 are the first "
        "ten)",
    )
    parser.add_argument(
        "--lr-factor",
        nargs="+",
        default=[],
        metavar="LAYERS:F",
        help="multiply the learning rate of some layers, e.g. 0-60:0.1,61-80:0.5",
    )
    options.seed(parser)
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="give equal weights in equal runs, also on a GPU, where this is slower",
    )


def _add_distillation_and_sparsity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--teacher",
        type=options.path_or_none,
        metavar="FILE",
        help="checkpoint to distill from, usually the network before it was pruned",
    )
    parser.add_argument(
        "--distill",
        nargs="?",
        const="both",
        default="output",
        choices=DISTILLATIONS,
        help="what of the teacher to distill: outputs of its heads, features before them, or both "
        "(default output; both if no value is given)",
    )
    parser.add_argument(
        "--sparsity",
        type=_sparsity,
        metavar="KIND:X",
        help="penalty that makes channels fade before a cut: bn:1e-3 (L1 of BatchNorm scales) or "
        "group:1e-3 (group lasso)",
    )


def _add_speed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bf16", action="store_true", help="compute in bfloat16 (default on GPUs that support it)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="optimize the network with torch.compile"
    )
    parser.add_argument(
        "--eager",
        action="store_true",
        help="launch each operation by itself on a GPU, without CUDA graphs",
    )
    parser.add_argument(
        "--sync-bn",
        action="store_true",
        help="under torchrun: BatchNorms see the whole batch, not only the part of each process",
    )
    parser.add_argument(
        "--multi-scale",
        action="store_true",
        help="resize each batch to a random size, 0.67 to 1.33 times --img-size",
    )
    parser.add_argument(
        "--cache", nargs="?", const="ram", choices=CACHES, help="keep decoded images in memory"
    )


def _add_watching(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", action="store_true", help="measure where the time goes: phases, loader, layers"
    )
    parser.add_argument(
        "--log", choices=SERVICES, help="also send the figures to this service, if it is installed"
    )


def _add_fitting(parser: argparse.ArgumentParser) -> None:
    options.single_class(parser)
    parser.add_argument(
        "--image-weights",
        action="store_true",
        help="draw images more often whose classes are rare or have a low mAP",
    )
    parser.add_argument(
        "--autoanchor",
        nargs="?",
        const="check",
        choices=ANCHORS,
        help="replace the anchors of a fresh network if they fit the boxes badly (force: of any "
        "network)",
    )


def _add_pruning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prune-to",
        metavar="KIND:B",
        help="prune gradually while training, down to macs:0.5, macs:30G or params:13M",
    )
    parser.add_argument(
        "--prune-every",
        type=options.positive,
        default=2,
        metavar="N",
        help="epochs between cuts (default 2)",
    )
    parser.add_argument(
        "--prune-until",
        type=options.positive,
        default=20,
        metavar="N",
        help="epoch of the last cut (default 20)",
    )
    parser.add_argument(
        "--prune-criterion",
        default="fisher",
        metavar="C",
        help="importance criterion of the cuts, as in prune global (default fisher)",
    )


def _sparsity(text: str) -> tuple[str, float]:
    """Read KIND:STRENGTH; the kinds are checked with the penalties themselves."""
    kind, _, strength = text.partition(":")
    try:
        return kind, float(strength)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no kind and strength; write KIND:STRENGTH, e.g. bn:1e-3"
        ) from None


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--schedule",
        choices=SCHEDULES,
        default="cosine",
        help="learning rate: cosine or linear, down to lrf (default cosine); multistep, x 0.1 at "
        "80 and 90 %% of the run; one-cycle, up for 30 %%, then down; plateau, x 0.3 after "
        "5 evaluations without a better one, or after 10 %% of all if that is more",
    )
    either.add_argument("--linear-lr", action="store_true", help="the same as --schedule linear")


def _add_saving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save-period",
        type=int,
        nargs="?",
        const=25,
        default=0,
        metavar="N",
        help="also save the weights of every Nth epoch (25 if no number is given)",
    )
    parser.add_argument(
        "--val-every",
        type=int,
        default=1,
        metavar="N",
        help="evaluate every Nth epoch, and the last (default 1; 0: the last epoch only)",
    )
    parser.add_argument(
        "--patience",
        type=options.natural,
        default=0,
        metavar="N",
        help="stop after N evaluations without a better fitness (default 0: never)",
    )
    parser.add_argument("--noval", action="store_true", help="evaluate the last epoch only")
    parser.add_argument(
        "--no-plots",
        action="store_true",
        help="draw no curves and no confusion matrix after the last epoch",
    )
