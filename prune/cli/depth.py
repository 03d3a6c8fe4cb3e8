"""prune depth: take whole residual blocks out of a network."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from prune.cli import cutting, options
from prune.common.amounts import read_amount
from prune.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from prune.common.size import Size
    from prune.pruner.depth import Block, Enough
    from prune.pruner.session import Session

EXAMPLE = """\
  prune depth --blocks 8 --weights best.pt
  prune depth --macs 0.7 --weights best.pt --data mine.yaml --out shallower.pt
  prune depth --macs 30G --criterion bn --dry-run --plan-out plan.json"""

CRITERIA = ("output", "l1", "bn", "random")  # of prune.pruner.depth, which --help must not import


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    how_many = parser.add_mutually_exclusive_group(required=True)
    how_many.add_argument("--blocks", type=int, metavar="N", help="how many blocks go")
    how_many.add_argument(
        "--macs",
        metavar="M",
        help="multiply-adds that may be left: a share such as 0.7, or 30G",
    )
    parser.add_argument(
        "--criterion",
        choices=CRITERIA,
        help="what a block is worth: how far its removal moves the head maps (output; default with "
        "--data), its mean weight (l1; default without), the last scale of its branch (bn)",
    )
    options.data(parser, required=False)
    parser.add_argument(
        "--images",
        type=int,
        default=8,
        metavar="N",
        help="training pictures of --data that output looks at (default 8; noise without)",
    )
    parser.add_argument(
        "--rescore", action="store_true", help="score what is left again after each removal"
    )
    options.seed(parser, of="of noise and of --criterion random")
    options.image_size(parser)
    cutting.add_arguments(parser, out="model_data/depth_pruning.pt")


def run(args: argparse.Namespace) -> None:
    """Remove as asked."""
    from prune.core.plan import Plan
    from prune.pruner import depth, width_and_depth

    # Noise ranked blocks worse than weights did, on the one trained network it was tried on.
    criterion = args.criterion or ("l1" if args.data is None else "output")
    if args.images < 1:
        raise PlanError(f"images is {args.images}; it must be at least 1, e.g. 8")
    subject = cutting.opened(args)
    imgsz = options.size(args, subject.checkpoint.imgsz)
    found = depth.blocks(subject.net, imgsz=imgsz)
    enough = _enough(args, subject, found, imgsz=imgsz)
    pictures = None
    if args.data is not None and criterion == "output":
        pictures = pictures_of(args, subject, images=args.images, imgsz=imgsz)
    net = subject.net if pictures is None else width_and_depth.near(subject.net, pictures)

    def score(blocks: Sequence[Block], gone: Sequence[Block]) -> tuple[float, ...]:
        return depth.block_scores(
            net,
            blocks,
            criterion=criterion,
            pictures=pictures,
            gone=gone,
            seed=args.seed,
        )

    chosen = depth.choose(found, enough, score, again=args.rescore)
    layers = sorted(layer for choice in chosen for layer in choice.block.layers)
    plan = Plan("", criterion, (), blocks=tuple(layers))
    scores = {choice.block.place.shortcut: choice.score for choice in chosen}
    cutting.finish(args, subject, plan, made_by="depth", scores=scores)


def _enough(
    args: argparse.Namespace, subject: Session, found: Sequence[Block], *, imgsz: Size
) -> Enough:
    from prune.core.cost.macs import count
    from prune.pruner import depth

    if args.macs is None:
        return depth.by_number(found, args.blocks)
    total = count(subject.net, imgsz.batch()).macs
    amount = read_amount(args.macs, option="--macs")
    return depth.by_macs(found, total, amount if amount > 1 else amount * total)


def pictures_of(args: argparse.Namespace, subject: Session, *, images: int, imgsz: Size) -> Tensor:
    """Read pictures spread evenly over --data's training split, [images, 3, H, W] in 0..1.

    They are on --device, where blocks are then judged.

    Raises:
        DataError: pictures that cannot be read.
    """
    from prune.common import device
    from prune.data import spec
    from prune.data.sift import sound
    from prune.evaluate.preprocess import fitted

    paths = spec.load(args.data, splits=("train",)).pictures("train")
    apart = max(len(paths) / images, 1)
    chosen = [paths[int(number * apart)] for number in range(min(images, len(paths)))]
    chosen = list(sound(chosen, where=f"{args.data}: train"))
    size = imgsz.raised(subject.net.stride)
    batch = next(iter(fitted(chosen, size, len(chosen))))
    return batch.images.to(device.choose(args.device)).float() / 255
