"""The stages from a trained detector to a file that is fast enough, each chosen by what came out.

A cut is timed before anything is trained: `prune global` cuts until the pruned network, in the form
that is deployed, is as fast as was asked for, and here it is timed once more beside the dense file.
What that does not confirm is not trained.
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
from prune.common.size import Size
from prune.errors import OffTargetError
from prune.latency.approach import AMISS, NEAR
from prune.latency.form import Form
from prune.runtimes.backends import installed
from prune.runtimes.compare import Compared, compared, latencies_ms

TRAINING = "train"  # where in a run's folder the fine-tuning is
TRIES = 2  # cuts until the clock confirms one
ROUNDS = 30
_TOLD = ("epochs", "best_epoch", "test_map")  # what a training says that is worth keeping
INT8_DROP = 0.5  # points of mAP that INT8 may take where the fine-tuned network has none left


@dataclass(frozen=True)
class AutoConfig:
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
        started_in: the working folder of the first start, "" where it is not known: paths in the
            data's description and in `training` may be relative to it.
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
    started_in: str = ""


@dataclass(frozen=True)
class AutoRun:
    """A run under way: what is wished, the folder of its files, what is done."""

    wish: AutoConfig
    folder: Path
    journal: Journal
    say: Callable[[str], None]

    def file(self, name: str) -> Path:
        """Name one of the run's files."""
        return self.folder / name

    def fact(self, stage: str, name: str) -> float:
        """Return a number that a stage found."""
        return float(cast(float, self.journal.stages[stage][name]))


def run_stages(road: AutoRun) -> None:
    """Do all stages that are not done yet."""
    for number, (name, stage) in enumerate(STAGES.items(), start=1):
        done = " was done before" if name in road.journal.stages else ""
        road.say(f"stage {number} of {len(STAGES)}: {name}{done}")
        road.journal.done(name, partial(stage, road))


def _dense(road: AutoRun) -> Facts:
    """Score the detector as it is, and write it as it would be deployed."""
    scores = _scores(road, road.wish.weights)
    out = road.file("dense.onnx")
    prune("export", "--weights", road.wish.weights, *_size(road.wish), "--out", out)
    runtime, threads = road.wish.runtime, road.wish.threads
    ms = latencies_ms([out], runtime=runtime, threads=threads, rounds=ROUNDS)[out]
    return {**scores, "ms": ms, "file": str(out)}


def _cut(road: AutoRun) -> Facts:
    """Cut until the deployed form is fast enough; recover what can be without training."""
    wish, target = road.wish, road.file("cut.pt")
    start = _deployed(road, wish.weights)
    uncut, dense_ms = start.ratio.middle, start.before_ms
    goal = wish.latency if wish.is_share else wish.latency / dense_ms
    if uncut <= (1 + NEAR) * goal:
        road.say(f"nothing to cut: deployed as asked it takes {start.ratio} of the time")
        checkpoint.save(checkpoint.load(wish.weights), target)
        return {"goal": goal, "uncut": uncut, "tried": [], "file": str(target)}
    # For more nothing has to go, and `prune global` takes fractions below 1.
    asked = min(goal, (1 - NEAR) * min(uncut, 1.0))
    tried: list[Facts] = []
    while len(tried) < TRIES:
        made = prune(*_cut_words(road, asked), *_recovery(road))
        found = _deployed(road, target).ratio
        tried.append({"asked": asked, "ratio": found.middle})
        road.say(f"the cut takes {found} of the dense network's time; {asked:.3g} is the goal")
        if asked / AMISS <= found.middle <= asked * AMISS:
            kept = {key: made[key] for key in ("blocks", "params", "macs", "latency", "recovery")}
            return {"goal": goal, "uncut": uncut, "tried": tried, **kept, "file": str(target)}
        road.say("that is too far from the goal to be trained")
    raise OffTargetError(
        f"after {TRIES} cuts the time is {found} of the dense network's in place of {asked:.3g}; "
        "nothing is trained: go on with --resume when the machine does less"
    )


def _cut_words(road: AutoRun, asked: float) -> list[object]:
    """Say what cuts to a fraction of the time, in the form that is deployed."""
    wish = road.wish
    words: list[object] = ["global", "--weights", wish.weights, "--latency", f"{asked:.5f}"]
    words += ["--runtime", wish.runtime, "--threads", wish.threads, *_size(wish)]
    words += ["--activation", wish.activation] if wish.activation else []
    words += ["--int8"] if wish.int8 else []
    words += ["--data", wish.data, "--depth", wish.depth, "--seed", wish.seed]
    return [*words, "--device", wish.device, "--out", road.file("cut.pt")]


def _recovery(road: AutoRun) -> list[object]:
    return ["--compensate", "--reconstruct", road.wish.data, "--score"]


def _tune(road: AutoRun) -> Facts:
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


def training(wish: AutoConfig) -> list[object]:
    """Say how a cut is fine-tuned."""
    words: list[object] = ["--teacher", wish.weights, "--data", wish.data]
    words += [*_size(wish), "--epochs", wish.epochs]
    words += ["--activation", wish.activation] if wish.activation else []
    return [*words, "--seed", wish.seed, "--device", wish.device, *wish.training]


def _score(road: AutoRun) -> Facts:
    """Score what was fine-tuned; a stage of its own, so that a stop here costs no training."""
    return _scores(road, road.file("pruned.pt"))


def _export(road: AutoRun) -> Facts:
    """Write what was fine-tuned, compared with torch on real pictures."""
    words = ["export", "--weights", road.file("pruned.pt"), "--data", road.wish.data]
    out = road.file("pruned.onnx")
    told = prune(*words, *_size(road.wish), "--out", out)
    return {"max_rel_diff": told["max_rel_diff"], "bytes": told["bytes"], "file": str(out)}


def _quantize(road: AutoRun) -> Facts:
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


def _bench(road: AutoRun) -> Facts:
    """Time and score every file beside the dense one, in every runtime at hand."""
    named = [road.journal.stages[stage].get("file") for stage in ("dense", "export", "quantize")]
    dense, *others = [Path(str(file)) for file in named if file]
    words: list[object] = ["bench", dense, *others, "--data", road.wish.data]
    words += ["--threads", road.wish.threads, "--runtime", ",".join(_runtimes(road.wish.runtime))]
    found = prune(*words, "--png", road.file("bench.png"))
    # In the runtime that was asked for once more, by the clock that a busy machine leaves right.
    ratios = {str(file): vars(_compared(road, file).ratio) for file in others}
    return {**found, "ratios": ratios}


def _runtimes(wanted: str) -> list[str]:
    """Name the runtimes to compare: the wished one first."""
    others = [name for name in ("onnxruntime", "openvino") if name in installed()]
    return list(dict.fromkeys([wanted, *others]))


STAGES: dict[str, Callable[[AutoRun], Mapping[str, object]]] = {
    "dense": _dense,
    "cut": _cut,
    "tune": _tune,
    "score": _score,
    "export": _export,
    "quantize": _quantize,
    "bench": _bench,
}


def _size(wish: AutoConfig) -> tuple[str, ...]:
    return "--img-size", *wish.imgsz.words


def _scores(road: AutoRun, weights: Path) -> Facts:
    words = ["val", "--weights", weights, "--data", road.wish.data, "--no-plots"]
    told = prune(*words, *_size(road.wish), "--device", road.wish.device)
    return {"map50": told["map50"], "map": told["map"]}


def _deployed(road: AutoRun, weights: Path) -> Compared:
    """Time a checkpoint, in the form it would be deployed in, in turn with the dense file."""
    net = checkpoint.network(checkpoint.load(weights))
    form = Form(road.wish.runtime, road.wish.activation, road.wish.int8)
    with TemporaryDirectory() as folder:
        path = form.write(form.network(net), Path(folder) / "net.onnx", imgsz=road.wish.imgsz)
        return _compared(road, path)


def _compared(road: AutoRun, path: Path) -> Compared:
    dense, runtime, threads = road.file("dense.onnx"), road.wish.runtime, road.wish.threads
    return compared(dense, path, runtime=runtime, threads=threads, rounds=ROUNDS)
