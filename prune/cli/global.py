"""prune global: cut the whole network to a budget of multiply-adds or parameters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import cutting, options, ranked
from prune.errors import InputError

if TYPE_CHECKING:
    from prune.budget import Budget
    from prune.limits import Wish
    from prune.pruning import Subject
    from prune.selection import Selected

EXAMPLE = """\
  prune global --weights best.pt --macs 0.5
  prune global --weights best.pt --macs 0.5 --criterion taylor --data data/bccd.yaml --steps 4
  prune global --weights best.pt --params 13M --round-to 8 --exclude 0-3 --max-ratio 0.8"""

ALLOCATIONS = ("uniform", "global", "per-cost", "isomorphic", "sensitivity")  # of prune.budget


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    budget = parser.add_mutually_exclusive_group(required=True)
    for kind, what in (("macs", "multiply-adds of one picture"), ("params", "parameters")):
        budget.add_argument(
            f"--{kind}", metavar="B", help=f"{what} to come down to: a share, 0.5, or 30G, 13M"
        )
    parser.add_argument(
        "--allocation",
        choices=ALLOCATIONS,
        help="how groups share the cut (default uniform; sensitivity with --sensitivity)",
    )
    parser.add_argument(
        "--sensitivity", type=Path, metavar="FILE", help="measured drops, of prune sensitivity"
    )
    parser.add_argument(
        "--steps", type=int, default=1, metavar="N", help="cut in N steps, scoring anew (default 1)"
    )
    ranked.add_arguments(parser, criterion="l1", scope="group")
    _add_limits(parser)
    options.image_size(parser)
    cutting.add_arguments(parser, out="model_data/global_pruning.pt")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-ratio", type=float, metavar="SHARE", help="share of a group that may go at most"
    )
    parser.add_argument(
        "--min-channels", type=int, metavar="N", help="channels that stay in every group"
    )
    options.round_to(parser)
    parser.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        metavar="LAYER",
        help="leave these whole: 5, 10-20, or a name such as '*.113.*'",
    )
    parser.add_argument(
        "--limits", type=Path, metavar="YAML", help="the same wishes, and ones by layer, in a file"
    )


def run(args: argparse.Namespace) -> None:
    """Cut as asked."""
    from prune import budgeted
    from prune.pruning import open_subject

    everywhere, layers = _limits(args)
    subject = open_subject(args.weights)
    imgsz = args.img_size or subject.checkpoint.imgsz
    budget = _budget(args, subject, imgsz)
    curves = _curves(args, subject)
    wishes = budgeted.Wishes(
        allocation=args.allocation or ("sensitivity" if curves else "uniform"),
        criterion=args.criterion,
        everywhere=everywhere,
        layers=layers,
        steps=args.steps,
        curves=curves,
    )
    chosen = budgeted.to_budget(
        subject, lambda now: ranked.scores(args, now), budget, wishes, imgsz=imgsz
    )
    _tell(chosen)
    cutting.finish(args, subject, chosen.plan, made_by="global")


def _budget(args: argparse.Namespace, subject: Subject, imgsz: int) -> Budget:
    from prune.budget import Budget
    from prune.count import count

    kind = "macs" if args.macs is not None else "params"
    amount = options.amount_of(getattr(args, kind), option=f"--{kind}")
    if amount > 1:
        return Budget(kind, int(amount))
    now = getattr(count(subject.net, (1, 3, imgsz, imgsz)), kind)
    return Budget(kind, int(amount * now))


def _limits(args: argparse.Namespace) -> tuple[Wish, Mapping[str, Mapping[str, object]]]:
    """Read --limits, then what the command line says on top of it."""
    from prune.limits import Wish, changed

    said: dict[str, object] = _read_limits(args.limits) if args.limits else {}
    layers = said.pop("layers", None) or {}
    excluded = said.pop("exclude", None) or []
    if not isinstance(layers, dict) or not isinstance(excluded, list):
        raise InputError(f"{args.limits}: layers must be a mapping and exclude a list")
    wish = changed(Wish(), said, where=str(args.limits))
    options_said = {
        name: value
        for name, value in (
            ("max_ratio", args.max_ratio),
            ("min_channels", args.min_channels),
            ("round_to", args.round_to if args.round_to != 1 else None),
        )
        if value is not None
    }
    found: dict[str, dict[str, object]] = {}
    for name, fields in layers.items():
        if not isinstance(fields, dict):
            raise InputError(f"{args.limits}: layers: {name}: must be limits, e.g. max_ratio: 0.5")
        found |= {pattern: dict(fields) for pattern in patterns(str(name))}
    for name in (*excluded, *args.exclude):
        for pattern in patterns(str(name)):
            found[pattern] = {**found.get(pattern, {}), "exclude": True}
    return changed(wish, options_said, where="the command line"), found


def _read_limits(path: Path) -> dict[str, object]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no limits; write e.g. max_ratio: 0.8")
    return found


def patterns(layer: str) -> list[str]:
    """Turn 5, 10-20 or a name pattern into patterns of layer names."""
    low, dash, high = layer.partition("-")
    if low.isdigit() and (not dash or high.isdigit()):
        return [f"module_list.{i}.*" for i in range(int(low), int(high or low) + 1)]
    return [layer]


def _curves(
    args: argparse.Namespace, subject: Subject
) -> dict[str, list[tuple[float, float]]] | None:
    if args.sensitivity is None:
        return None
    from prune.sensitivity import curves

    return curves(args.sensitivity, subject)


def _tell(chosen: Selected) -> None:
    """List what stayed whole, a line a reason."""
    by_reason: dict[str, list[str]] = {}
    for root, reason in chosen.whole:
        by_reason.setdefault(reason, []).append(root)
    for reason, roots in by_reason.items():
        sys.stderr.write(f"prune: note: {cutting.member_text(roots)} stays whole: {reason}\n")
