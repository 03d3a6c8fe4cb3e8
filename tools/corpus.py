"""Try every Darknet cfg of a folder: build, compare with OpenCV, cut, write, read back.

python tools/corpus.py cfgs/ --markdown table.md --json table.json

Each network gets random weights of a fixed seed, normalised so that every layer gives values of
about 1, and is written as a .weights file. OpenCV reads the cfg with that file, and its head maps
must equal ours. `prune global --macs 0.5 --criterion l1` then cuts the network and verifies the
cut, `prune export --format darknet` writes it, and it is read back here and by OpenCV. Every
network runs in a process of its own with a limit of time; images are small, which does not change
what a layer means.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prune import checkpoint
from prune.checkpoint.convert import import_foreign
from prune.checkpoint.foreign.epsilon import DARKNET_EPS
from prune.checkpoint.foreign.structure import read_cfg
from prune.checkpoint.foreign.weights import write_weights
from prune.cli import main as prune
from prune.core.cost.macs import count
from prune.errors import PruneError
from prune.export.darknet_check import OPENCV_EPS, lacking_in_opencv
from prune.models.darknet import Darknet
from prune.models.sections import head_path, heads, remarks, with_darknet_decoding

TOLERANCE = 1e-3  # of the largest value: rounding grows with the layers; a wrong one gives 0.1
SIDE = 64  # pixels; the sides of the images are the next multiple of twice the network's stride
AGREES, DIFFERS = "agrees", "differs"

Maps = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Row:
    """What came of one cfg.

    Attributes:
        name: of the file.
        refused: why it is none that can be read; "" for a network that was built.
        failed: what went wrong with a network that was built; "" where nothing did.
        layers: how many.
        kinds: the heads, e.g. "3 yolo".
        params: parameters.
        notes: what of the cfg is not read.
        opencv: "agrees", "differs", or why OpenCV cannot say.
        difference: of the head maps, relative to the largest value.
        macs: of the cut network, as a fraction of the whole one.
        back: difference between the cut network and what was read back from its Darknet files.
        cut_opencv: `opencv` for those files.
        cut_difference: `difference` for those files.
    """

    name: str
    refused: str = ""
    failed: str = ""
    layers: int = 0
    kinds: str = ""
    params: int = 0
    notes: tuple[str, ...] = ()
    opencv: str = ""
    difference: float | None = None
    macs: float | None = None
    back: float | None = None
    cut_opencv: str = ""
    cut_difference: float | None = None

    @property
    def built(self) -> bool:
        """Say whether there is a network at all."""
        return not self.refused and self.layers > 0

    @property
    def came_back(self) -> bool:
        """Say whether the cut network was read back as it was written."""
        return self.back is not None and self.back <= TOLERANCE


def main() -> int:
    """Try what the command line names; return 1 where a network that was built has a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, metavar="DIR", help="searched for *.cfg, or one cfg")
    parser.add_argument("--macs", type=float, default=0.5, help="fraction to cut to (default 0.5)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default 0)")
    parser.add_argument(
        "--timeout", type=float, default=600, help="seconds per network (default 600)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(asdict(tried(args.folder, macs=args.macs, seed=args.seed))))
        return 0
    files = sorted(args.folder.rglob("*.cfg")) if args.folder.is_dir() else [args.folder]
    if not files:
        parser.error(f"no *.cfg in {args.folder}")
    rows = []
    for number, path in enumerate(files, start=1):
        rows.append(in_a_process(path, args))
        print(f"{number}/{len(files)} {line(rows[-1])}", flush=True)
        if args.json:
            args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        if args.markdown:
            args.markdown.write_text(markdown(rows))
    print(summary(rows))
    return int(any(row.failed or DIFFERS in (row.opencv, row.cut_opencv) for row in rows))


def in_a_process(path: Path, args: argparse.Namespace) -> Row:
    """Try one cfg where neither its memory nor its time is anybody else's."""
    words = ["--child", "--macs", args.macs, "--seed", args.seed]
    command = [sys.executable, __file__, str(path), *map(str, words)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=args.timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return Row(path.name, failed=f"took more than {args.timeout:g} s")
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return Row(path.name, failed=said[-1])
    document = json.loads(done.stdout.strip().splitlines()[-1])
    return Row(**{**document, "notes": tuple(document["notes"])})


def tried(path: Path, *, macs: float, seed: int) -> Row:
    """Try one cfg, step after step, until one fails."""
    row = Row(path.name)
    try:
        net = network(path, seed=seed)
    except PruneError as error:
        return replace(row, refused=" ".join(str(error).replace(str(path), path.name).split()))
    row = described(row, path, net)
    with tempfile.TemporaryDirectory() as folder:
        try:
            for step in (compared, cut):
                row = step(row, path, net, Path(folder), macs)
        except Exception as error:  # whatever it is, the table shows it beside the network
            said = " ".join(str(error).split())
            return replace(row, failed=f"{type(error).__name__}: {said}")
    return row


@torch.no_grad()
def network(path: Path, *, seed: int) -> Darknet:
    """Build a cfg's network with weights under which signals neither die away nor grow."""
    torch.manual_seed(seed)
    net = Darknet(with_darknet_decoding(read_cfg(path))).train()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of the one batch that follows
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0.0, 0.2)
    net(torch.rand(2, 3, *sides(net)))
    for norm in norms:
        assert norm.running_var is not None
        norm.running_var.clamp_(min=0.1)  # of channels that hardly vary on so few cells
    return net.eval()


def sides(net: Darknet) -> tuple[int, int]:
    """Return height and width of small images that the network takes."""
    step = 2 * net.stride
    side = -(-SIDE // step) * step
    return side, side


def image(net: Darknet) -> Tensor:
    """Draw one image, [1, 3, H, W] in 0..1, always the same."""
    return torch.rand(1, 3, *sides(net), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def maps_of(net: Darknet) -> Maps:
    """Compute the head maps of that image."""
    return [found.numpy() for found in net(image(net))]


def described(row: Row, path: Path, net: Darknet) -> Row:
    """Say what a network is."""
    kinds = [net.sections[head + 1].kind for head in heads(net.sections)]
    return replace(
        row,
        layers=len(net.module_list),
        kinds=", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)),
        params=sum(parameter.numel() for parameter in net.parameters()),
        notes=remarks(read_cfg(path)),
    )


def compared(row: Row, path: Path, net: Darknet, folder: Path, _: float) -> Row:
    """Write the weights, read the pair here and in OpenCV, and compare the head maps."""
    weights = folder / "net.weights"
    write_weights(weights, net.state_dict(), net.sections)
    source = import_foreign(weights, cfg=path, imgsz=sides(net)[0])
    checkpoint.save(source, folder / "whole.pt")
    own = maps_of(net)
    apart = difference(maps_of(checkpoint.network(source)), own)
    assert apart <= TOLERANCE, f"read back from its own .weights it differs by {apart:.2g}"
    said, apart_there = by_opencv(path, net, folder)
    return replace(row, opencv=said, difference=apart_there)


def cut(row: Row, _: Path, net: Darknet, folder: Path, macs: float) -> Row:
    """Cut the network as a user would, write it for Darknet, and read that back."""
    whole, smaller, written = (folder / name for name in ("whole.pt", "cut.pt", "cut.cfg"))
    ran("global", "--weights", whole, "--out", smaller, "--macs", macs, "--criterion", "l1")
    ran("export", "--weights", smaller, "--format", "darknet", "--out", written)
    pruned = checkpoint.network(checkpoint.load(smaller))
    weights = written.with_suffix(".weights")
    back = checkpoint.network(import_foreign(weights, cfg=written, imgsz=sides(net)[0]))
    said, apart = by_opencv(written, back, folder)
    shape = (1, 3, *sides(net))
    return replace(
        row,
        macs=count(pruned, shape).macs / count(net, shape).macs,
        back=difference(maps_of(back), maps_of(pruned)),
        cut_opencv=said,
        cut_difference=apart,
    )


def ran(*words: object) -> str:
    """Run a command of prune; return what it prints.

    Raises:
        AssertionError: it failed; what it said.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = prune([str(word) for word in words])
    assert status == 0, f"prune {words[0]}: {err.getvalue().strip()}"
    return out.getvalue()


def difference(found: Maps, wanted: Maps) -> float:
    """Return how far head maps are apart, relative to the largest value of each; 1 for shapes."""
    if [x.shape for x in found] != [x.shape for x in wanted]:
        return 1.0
    pairs = zip(found, wanted, strict=True)
    return max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs)


def by_opencv(cfg: Path, net: Darknet, folder: Path) -> tuple[str, float | None]:
    """Let OpenCV read a cfg, with a network's weights, and compare the head maps."""
    weights = folder / "opencv.weights"
    state = {
        name: value + (DARKNET_EPS - OPENCV_EPS) if name.endswith("running_var") else value
        for name, value in net.state_dict().items()
    }
    write_weights(weights, state, net.sections)
    sections = read_cfg(cfg)
    if lacking := lacking_in_opencv(sections):
        return f"OpenCV does not read {lacking}", None
    layers = [head_path(sections, head)[-1] for head in heads(sections)]
    try:
        there = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
        there.setInput(image(net).numpy())
        found = [np.asarray(x, np.float32) for x in there.forward([f"conv_{i}" for i in layers])]
    except cv2.error as error:
        return f"OpenCV cannot read it: {error.err}", None
    apart = difference(found, maps_of(net))
    return (AGREES if apart <= TOLERANCE else DIFFERS), apart


def line(row: Row) -> str:
    """Say in one line what came of a network."""
    if row.refused or not row.built:
        return f"{row.name}: {row.refused or 'failed: ' + row.failed}"
    apart = "" if row.difference is None else f" ({row.difference:.1g})"
    parts = [f"{row.layers} layers", f"OpenCV: {row.opencv}{apart}"]
    if row.macs is not None:
        back = "read back" if row.came_back else f"differs by {row.back:.2g} when read back"
        parts.append(f"cut to {row.macs:.2f}, {back}, OpenCV: {row.cut_opencv}")
    return f"{row.name}: " + "; ".join([*parts, *([f"failed: {row.failed}"] * bool(row.failed))])


def summary(rows: Sequence[Row]) -> str:
    """Count what came of all."""
    built = [row for row in rows if row.built]
    asked = [row for row in built if row.opencv in (AGREES, DIFFERS)]
    counts = {
        "cfgs tried": len(rows),
        "built": len(built),
        "compared with OpenCV": len(asked),
        "agree with OpenCV": sum(row.opencv == AGREES for row in asked),
        "cut, verified and read back": sum(row.came_back for row in built),
        "agree with OpenCV after the cut": sum(row.cut_opencv == AGREES for row in built),
        "refused with a reason": sum(bool(row.refused) for row in rows),
        "failed": sum(bool(row.failed) for row in rows),
    }
    return "\n".join(f"{count:5}  {what}" for what, count in counts.items())


def markdown(rows: Sequence[Row]) -> str:
    """Write the summary and both tables."""
    return "\n".join(
        [
            *_table(("networks", ""), _counted(rows)),
            "",
            *_table(
                ("cfg", "layers", "heads", "parameters", "OpenCV", "cut to", "after the cut"),
                (_cells(row) for row in rows if row.built),
            ),
            "",
            *_table(
                ("refused cfg", "reason"),
                ((row.name, row.refused or row.failed) for row in rows if not row.built),
            ),
            "",
        ]
    )


def _counted(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    for counted in summary(rows).splitlines():
        number, _, what = counted.strip().partition("  ")
        yield what, number


def _cells(row: Row) -> tuple[str, ...]:
    cut_to = "-" if row.macs is None else f"{row.macs:.2f}"
    after = row.failed or ("read back" if row.came_back else f"differs by {row.back:.2g}")
    if not row.failed and row.cut_opencv == AGREES:
        after += ", OpenCV agrees"
    return row.name, str(row.layers), row.kinds, f"{row.params:,}", row.opencv, cut_to, after


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for number, cells in enumerate((head, *rows)):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        if not number:
            yield "|---" * len(head) + "|"


if __name__ == "__main__":
    sys.exit(main())
