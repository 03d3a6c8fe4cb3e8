"""The stages from a trained detector to a file that is fast enough, each chosen by what came out.

A cut is tried before anything is trained: its deployed form is timed beside the dense network, and
the cut is made deeper or shallower until that is as fast as was asked for. Only then comes what
takes long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from prune import checkpoint
from prune.auto.commands import prune
from prune.auto.journal import Facts, Journal
from prune.bench.latency import compared, latencies_ms
from prune.bench.runtimes import installed
from prune.errors import StageError
from prune.latency.form import Form
from prune.size import Size

TRAINING = "train"  # where in a run's folder the fine-tuning is
TRIES = 5  # cuts until one is as fast as was asked for
NEAR = 0.03  # a cut is fast enough if it misses by so much: what a clock can tell
ROUNDS = 30
_TOLD = ("epochs", "best_epoch", "test_map")  # what a training says that is worth keeping
INT8_DROP = 0.5  # points of mAP that INT8 may take where the fine-tuned network has none left


@dataclass(frozen=True)
class Wish:
    """What a run is to come to.

    Attributes:
        weights: the trained detector.
        data: its pictures.
        latency: a share of the dense network's milliseconds, or milliseconds; see `is_share`.
        is_share: whether `latency` is a share.
        int8: whether the file may be in INT8.
        max_drop: mAP@.5:.95 that may be lost, in points (hundredths).
        runtime: where it is to be fast.
        threads: of a run.
        imgsz: height and width of the pictures.
        epochs: of the fine-tuning.
        activation: what convolutions learn instead of their own; "" keeps it.
        depth: residual blocks that leave; "auto" chooses.
        training: more options of `prune train`, as words.
        device: for `--device`.
        seed: of everything.
    """

    weights: Path
    data: Path
    latency: float
    is_share: bool
    int8: bool
    max_drop: float
    runtime: str
    threads: int
    imgsz: Size
    epochs: int
    activation: str
    depth: str
    training: tuple[str, ...]
    device: str
    seed: int


@dataclass(frozen=True)
class Road:
    """A run under way: what is wished, the folder of its files, what is done."""

    wish: Wish
    folder: Path
    journal: Journal
    say: Callable[[str], None]

    def file(self, name: str) -> Path:
        """Name one of the run's files."""
        return self.folder / name

    def fact(self, stage: str, name: str) -> float:
        """Return a number that a stage found."""
        return float(cast(float, self.journal.stages[stage][name]))


def walk(road: Road) -> None:
    """Do all stages that are not done yet."""
    for name, stage in STAGES.items():
        road.journal.done(name, partial(stage, road))


def _dense(road: Road) -> Facts:
    """Score the detector as it is, and write it as it would be deployed."""
    scores = _scores(road, road.wish.weights)
    out = road.file("dense.onnx")
    prune("export", "--weights", road.wish.weights, *_size(road.wish), "--out", out)
    return {**scores, "ms": _ms(road, out), "file": str(out)}


def _cut(road: Road) -> Facts:
    """Find the cut whose deployed form is fast enough; recover what can be without training."""
    wish, dense = road.wish, road.fact("dense", "ms")
    goal = wish.latency * dense if wish.is_share else wish.latency
    start = _deployed_ms(road, wish.weights)
    uncut: Facts = {"asked_ms": dense, "came_ms": start}
    if _fits(start, goal):
        road.say(f"nothing to cut: deployed as asked it takes {start:.2f} ms, within {goal:.2f}")
        checkpoint.save(checkpoint.load(wish.weights), road.file("cut.pt"))
        return {"goal_ms": goal, "tried": [uncut], "file": str(road.file("cut.pt"))}
    # For more nothing has to go, and `prune global` takes shares below 1.
    most = (1 - NEAR) * min(start, dense)
    tried, depth = _tried(road, goal, most=most)
    # Too slow is too slow by however little: what is fast enough is nearer.
    asked = min(tried, key=lambda ms: (not _fits(tried[ms], goal), abs(tried[ms] - goal)))
    made = prune(*_cut_words(road, asked, depth), *_recovery(road))
    kept = {key: made[key] for key in ("blocks", "params", "macs", "latency", "recovery")}
    told = [{"asked_ms": ms, "came_ms": came} for ms, came in tried.items()]
    return {"goal_ms": goal, "tried": [uncut, *told], **kept, "file": str(road.file("cut.pt"))}


def _fits(ms: float, goal: float) -> bool:
    return ms <= (1 + NEAR) * goal


def _tried(road: Road, goal: float, *, most: float) -> tuple[dict[float, float], str]:
    """Cut deeper or shallower until that takes `goal` ms deployed; at most `most` are asked for.

    Returns:
        By the milliseconds that were asked for those that came; and how many blocks leave.
    """
    asked, depth = min(goal, most), road.wish.depth
    tried: dict[float, float] = {}
    while len(tried) < TRIES and asked not in tried:
        # What may leave shows only after recovery, which a try for the clock can do without.
        recovery = _recovery(road) if depth == "auto" else []
        try:
            made = prune(*_cut_words(road, asked, depth), *recovery)
        except StageError as error:
            if not tried or error.exit_code != StageError.exit_code:
                raise
            break  # no cut is deeper: one before has to do, and the end will say so
        depth = str(len(cast("list[object]", made["blocks"])))  # chosen once: it takes minutes
        tried[asked] = came = _deployed_ms(road, road.file("cut.pt"))
        road.say(f"a cut to {asked:.2f} ms takes {came:.2f} ms deployed; {goal:.2f} are the goal")
        if abs(came / goal - 1) <= NEAR:
            break
        asked = min(asked * goal / came, most)
    return tried, depth


def _cut_words(road: Road, asked: float, depth: str) -> list[object]:
    """Say what cuts to so many milliseconds in the form that is deployed."""
    # A share, not milliseconds: the cut has a clock of its own, which has drifted since.
    wish, share = road.wish, asked / road.fact("dense", "ms")
    words: list[object] = ["global", "--weights", wish.weights, "--latency", f"{share:.5f}"]
    words += ["--runtime", wish.runtime, "--threads", wish.threads, *_size(wish)]
    words += ["--activation", wish.activation] if wish.activation else []
    words += ["--int8"] if wish.int8 else []
    words += ["--data", wish.data, "--depth", depth, "--seed", wish.seed]
    return [*words, "--device", wish.device, "--out", road.file("cut.pt")]


def _recovery(road: Road) -> list[object]:
    return ["--compensate", "--reconstruct", road.wish.data, "--score"]


def _tune(road: Road) -> Facts:
    """Fine-tune with the uncut detector as teacher; go on with a run that was broken off."""
    folder = road.file(TRAINING)
    last, best = (folder / "weights" / f"{name}.pt" for name in ("last", "best"))
    if last.is_file() and checkpoint.load(last).training:
        words: list[object] = ["train", "--resume", last]
    else:
        words = ["train", "--weights", road.file("cut.pt"), "--pt", *training(road.wish)]
        words += ["--project", road.folder, "--name", folder.name, "--exist-ok"]
    told = prune(*words)
    out = road.file("pruned.pt")
    checkpoint.save(checkpoint.load(best), out)
    return {**{name: told[name] for name in _TOLD if name in told}, "file": str(out)}


def training(wish: Wish) -> list[object]:
    """Say how a cut is fine-tuned."""
    words: list[object] = ["--teacher", wish.weights, "--data", wish.data]
    words += [*_size(wish), "--epochs", wish.epochs]
    words += ["--activation", wish.activation] if wish.activation else []
    return [*words, "--seed", wish.seed, "--device", wish.device, *wish.training]


def _score(road: Road) -> Facts:
    """Score what was fine-tuned; a stage of its own, so that a stop here costs no training."""
    return _scores(road, road.file("pruned.pt"))


def _export(road: Road) -> Facts:
    """Write what was fine-tuned, compared with torch on real pictures."""
    words = ["export", "--weights", road.file("pruned.pt"), "--data", road.wish.data]
    out = road.file("pruned.onnx")
    told = prune(*words, *_size(road.wish), "--out", out)
    return {"max_rel_diff": told["max_rel_diff"], "bytes": told["bytes"], "file": str(out)}


def _quantize(road: Road) -> Facts:
    """Put it into INT8, within what of the allowed drop is left."""
    if not road.wish.int8:
        return {"skipped": "no --int8"}
    lost = 100 * (road.fact("dense", "map") - road.fact("score", "map"))
    left = road.wish.max_drop - lost
    words: list[object] = ["quantize", "--weights", road.file("pruned.onnx")]
    words += ["--data", road.wish.data, "--max-drop", f"{left if left > 0 else INT8_DROP:.3f}"]
    words += ["--runtime", road.wish.runtime, "--threads", road.wish.threads]
    told = prune(*words, "--seed", road.wish.seed, "--out", road.file("pruned-int8.onnx"))
    return {"left": left, "file": told["out"], **told}


def _bench(road: Road) -> Facts:
    """Time and score every file beside the dense one, in every runtime at hand."""
    files = [road.journal.stages[stage].get("file") for stage in ("dense", "export", "quantize")]
    words: list[object] = ["bench", *(file for file in files if file), "--data", road.wish.data]
    words += ["--threads", road.wish.threads, "--runtime", ",".join(_runtimes(road.wish.runtime))]
    return prune(*words, "--png", road.file("bench.png"))


def _runtimes(wanted: str) -> list[str]:
    """Name the runtimes to compare: the wished one first."""
    others = [name for name in ("onnxruntime", "openvino") if name in installed()]
    return list(dict.fromkeys([wanted, *others]))


STAGES: dict[str, Callable[[Road], Mapping[str, object]]] = {
    "dense": _dense,
    "cut": _cut,
    "tune": _tune,
    "score": _score,
    "export": _export,
    "quantize": _quantize,
    "bench": _bench,
}


def _size(wish: Wish) -> tuple[str, ...]:
    return "--img-size", *wish.imgsz.words


def _scores(road: Road, weights: Path) -> Facts:
    words = ["val", "--weights", weights, "--data", road.wish.data, "--no-plots"]
    told = prune(*words, *_size(road.wish), "--device", road.wish.device)
    return {"map50": told["map50"], "map": told["map"]}


def _deployed_ms(road: Road, weights: Path) -> float:
    """Time a checkpoint in the form it would be deployed in: activation, INT8, runtime."""
    net = checkpoint.network(checkpoint.load(weights))
    form = Form(road.wish.runtime, road.wish.activation, road.wish.int8)
    with TemporaryDirectory() as folder:
        target = Path(folder) / "net.onnx"
        return _ms(road, form.write(form.network(net), target, imgsz=road.wish.imgsz))


def _ms(road: Road, path: Path) -> float:
    """Time a file; beside the dense one where that is written, so that drift hits both alike."""
    dense, runtime, threads = road.file("dense.onnx"), road.wish.runtime, road.wish.threads
    if path == dense:
        return latencies_ms([path], runtime=runtime, threads=threads, rounds=ROUNDS)[path]
    found = compared(dense, path, runtime=runtime, threads=threads, rounds=ROUNDS)
    return found.ratio.middle * road.fact("dense", "ms")
