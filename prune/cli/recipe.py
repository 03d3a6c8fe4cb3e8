"""How `prune train` goes about it: the recipe's options, and what they ask of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from prune.cli import options
from prune.common import layer_ranges
from prune.common.amounts import read_amount
from prune.errors import InputError

if TYPE_CHECKING:
    from prune.common.size import Size
    from prune.models.darknet import Darknet
    from prune.train.gradual import Narrowing
    from prune.train.run import Settings
    from prune.train.source import Source

# How a run prunes as it goes, where --prune-to says that it does.
_NARROWING = ("prune_every", "prune_until", "prune_criterion")
SCHEDULES = ("cosine", "linear", "multistep", "one-cycle", "plateau")  # as prune.train.schedule's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how a network is trained, on what of the data, and how often it is scored and kept."""
    _add_recipe(parser)
    _add_help_from_elsewhere(parser)
    _add_narrowing(parser)
    _add_fitting(parser)
    _add_speed(parser)
    _add_keeping(parser)
    _add_watching(parser)


def settings(
    args: argparse.Namespace, source: Source, device: str, say: Callable[[str], None]
) -> Settings:
    """Say what is asked of a run on this kind of device.

    Raises:
        InputError: a value that no run can have.
        PlanError: factors for layers that are not there.
    """
    from prune.train import multi_scale
    from prune.train.run import Settings
    from prune.train.sparsity import Sparsity

    wanted = source.imgsz if args.img_size is None else args.img_size
    stride = source.net.stride
    imgsz = wanted.raised(stride)
    if isinstance(wanted, options.TwoNumbers):
        say(_two_numbers(wanted))
    if imgsz != wanted:
        say(f"note: image size {wanted} is raised to {imgsz}, a multiple of the stride {stride}")
    if args.multi_scale and len(multi_scale.sizes(imgsz, stride=stride)) == 1:
        raise InputError(
            f"--multi-scale has one size alone for images of {imgsz} pixels and a stride of "
            f"{stride}; give --img-size {3 * stride} or more"
        )
    return Settings(
        epochs=args.epochs,
        imgsz=imgsz,
        batch_size=1 if args.batch_size == "auto" else args.batch_size,  # found out later
        nominal_batch=args.nominal_batch,
        seed=args.seed,
        schedule="linear" if args.linear_lr else args.schedule,
        val_every=0 if args.noval else args.val_every,
        save_period=args.save_period,
        image_weights=args.image_weights,
        precision="bfloat16" if args.bf16 else _fast(device),
        patience=args.patience,
        lr_factors=layer_ranges.read_factors(args.lr_factor, len(source.net.layers)),
        distill=args.distill,
        sparsity=Sparsity(*args.sparsity) if args.sparsity else None,
        eager=args.eager,
        compiled=args.compile,
        sync_bn=args.sync_bn,
        multi_scale=args.multi_scale,
        profile=args.profile,
    )


def _two_numbers(size: Size) -> str:
    """Say how two numbers were read: in YOLOR and YOLOv5 they are the sizes of train and test."""
    typed = f"note: --img-size {size.height} {size.width} is read as"
    if size.square:
        return f"{typed} a square of {size.described}, for training and for validation"
    return f"{typed} height and width, for training and for validation alike"


def _fast(device: str) -> str:
    """Return the fastest precision that trains as well as float32 on this kind of device."""
    import torch

    if device != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def narrowing(args: argparse.Namespace, source: Source, settings: Settings) -> Narrowing | None:
    """Read --prune-to; a share is of what the network cost before this run.

    Raises:
        InputError: nothing to cut, no epoch for it, or options of a cut that is not wished.
    """
    if args.prune_to is None:
        lone = [name for name in _NARROWING if name in args.typed]
        if lone and args.resume is None:  # what was recorded once goes on
            raise InputError(f"{options.as_typed(lone[0])} needs --prune-to, e.g. macs:0.5")
        return None
    from prune.train.gradual import Narrowing, expect_reachable, start_of

    kind, _, amount = args.prune_to.partition(":")
    if kind not in ("macs", "params"):
        raise InputError(f"--prune-to is {args.prune_to!r}; write macs:0.5, macs:30G, params:13M")
    goal = read_amount(amount, option="--prune-to")
    if args.prune_until >= settings.epochs:
        raise InputError(
            f"--prune-until is {args.prune_until} of {settings.epochs} epochs; "
            "the last cut needs epochs after it"
        )
    # A resumed run starts from its own cuts; a new one from whatever it is given.
    history = source.history if args.resume is not None else ()
    start = start_of(source.net, history, kind=kind, imgsz=settings.imgsz)
    wish = Narrowing(
        kind=kind,
        start=start,
        goal=int(goal if goal > 1 else goal * start),
        every=args.prune_every,
        until=args.prune_until,
        criterion=args.prune_criterion,
    )
    expect_reachable(source.net, wish, imgsz=settings.imgsz)
    return wish


def freeze(args: argparse.Namespace, net: Darknet, say: Callable[[str], None]) -> None:
    """Take the layers of --freeze out of training.

    Raises:
        PlanError: layers that are not there.
        InputError: nothing would be left to train.
    """
    from prune.train import frozen

    if not args.freeze:
        return
    layers = layer_ranges.read_layers(args.freeze, len(net.layers))
    still = frozen.freeze(net, layers)
    total = sum(parameter.numel() for parameter in net.parameters())
    say(
        f"note: layers {layer_ranges.as_ranges(layers)} stay as they are: "
        f"{still} of {total} parameters"
    )


def hyper_parameters(args: argparse.Namespace) -> Mapping[str, float]:
    """Read --hyp, or choose the recipe that suits the start.

    A run that is taken up has a whole file of its own. What that lacks came later, and is off.

    Raises:
        InputError: a file that cannot be used.
    """
    from prune.common import hyperparameters

    base = (
        hyperparameters.SCRATCH if args.weights is None or args.resume else hyperparameters.FINETUNE
    )
    return base if args.hyp is None else hyperparameters.load(args.hyp, base=base)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hyp",
        type=options.path_or_none,
        metavar="YAML",
        help="hyper-parameters; what the file leaves out, or all, is as in cfg/hyp/scratch.yaml, "
        "or finetune.yaml with --weights",
    )
    parser.add_argument("--epochs", type=int, default=100, metavar="N", help="default 100")
    parser.add_argument(
        "--nominal-batch",
        type=int,
        default=64,
        metavar="N",
        help="pictures an update gathers once 1000 batches are past; fewer before (default 64)",
    )
    _add_schedule(parser)
    parser.add_argument(
        "--freeze",
        nargs="+",
        metavar="LAYERS",
        help="layers that do not train, e.g. 0-20,25 (10 is layer 10 alone; the first ten are 0-9)",
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
        help="compute so that equal runs give equal weights, on a GPU too, where it is slower",
    )


def _add_help_from_elsewhere(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--teacher",
        type=options.path_or_none,
        metavar="FILE",
        help="checkpoint to imitate, as a rule the network before it was pruned (distillation)",
    )
    parser.add_argument(
        "--distill",
        nargs="?",
        const="both",
        default="output",
        choices=("output", "feature", "both"),
        help="what of the teacher to imitate (default output; both if the word stands alone)",
    )
    parser.add_argument(
        "--sparsity",
        type=_sparsity,
        metavar="KIND:X",
        help="make channels fade before a cut: bn:1e-3 (scales, L1) or group:1e-3 (group lasso)",
    )


def _add_speed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bf16", action="store_true", help="compute in bfloat16 (default on GPUs that can)"
    )
    parser.add_argument("--compile", action="store_true", help="let torch.compile make it faster")
    parser.add_argument(
        "--eager", action="store_true", help="on a GPU: no CUDA graphs, one launch an operation"
    )
    parser.add_argument(
        "--sync-bn",
        action="store_true",
        help="under torchrun: BatchNorms see the whole batch, not each process's share",
    )
    parser.add_argument(
        "--multi-scale",
        action="store_true",
        help="give every batch a size of its own, 0.67 to 1.33 times --img-size",
    )
    parser.add_argument(
        "--cache", nargs="?", const="ram", choices=["ram"], help="keep decoded pictures in memory"
    )


def _add_watching(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", action="store_true", help="tell where the time goes: phases, loader, layers"
    )
    parser.add_argument(
        "--log", choices=["wandb", "mlflow"], help="also show the figures there, if it is installed"
    )


def _add_fitting(parser: argparse.ArgumentParser) -> None:
    options.single_class(parser)
    parser.add_argument(
        "--image-weights",
        action="store_true",
        help="draw pictures more often the worse their classes score and the rarer they are",
    )
    parser.add_argument(
        "--autoanchor",
        nargs="?",
        const="check",
        choices=["check", "force"],
        help="give a fresh network new anchors if its own fit the boxes badly (force: any network)",
    )


def _add_narrowing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prune-to",
        metavar="KIND:B",
        help="prune while training, a little at a time, to macs:0.5, macs:30G or params:13M",
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
        help="epoch of the last (default 20)",
    )
    parser.add_argument(
        "--prune-criterion",
        default="fisher",
        metavar="C",
        help="what ranks channels, as in global",
    )


def _sparsity(text: str) -> tuple[str, float]:
    """Read KIND:STRENGTH; which kinds there are is not known here."""
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
        "5 scores without a better one, or a tenth of the run's if that is more",
    )
    either.add_argument("--linear-lr", action="store_true", help="the same as --schedule linear")


def _add_keeping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save-period",
        type=int,
        nargs="?",
        const=25,
        default=0,
        metavar="N",
        help="also keep every Nth epoch (25 if N is left out)",
    )
    parser.add_argument(
        "--val-every",
        type=int,
        default=1,
        metavar="N",
        help="score every Nth epoch, and the last (default 1; 0: the last alone)",
    )
    parser.add_argument(
        "--patience",
        type=options.natural,
        default=0,
        metavar="N",
        help="stop after N scored epochs without a better fitness (default 0: never)",
    )
    parser.add_argument("--noval", action="store_true", help="score the last epoch only")
    parser.add_argument(
        "--no-plots", action="store_true", help="draw no curves and no confusion matrix at the end"
    )
