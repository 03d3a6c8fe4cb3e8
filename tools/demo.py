"""Run every stage on a small generated image set: `python tools/demo.py --out demo`.

Every step is a command as a user would type it, printed before it runs, so the output doubles as a
tutorial. The last table compares the dense network, the cut alone, the cut recovered without any
training, the fine-tuned network, and the control: the pruned structure trained from scratch for as
many epochs as dense and fine-tuned network have seen together. A pruned network that does not beat
its control was not worth the pruning.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

CFG = Path(__file__).resolve().parents[1] / "cfg" / "yolor_csp_n.cfg"
HYP = CFG.parent / "hyp" / "demo.yaml"
COMPARE = Path(__file__).with_name("compare.py")
MARK = ".made-by-demo"

# Sizes that fit into ten minutes on two cores. Half of the epochs come before the cut, as
# docs/results.md recommends: a network that has not learned has nothing to keep, nor to teach.
IMAGES, SIZE = 256, 128  # 160 to train on, 32 for the best epoch, 64 to compare on
DENSE_EPOCHS, TUNE_EPOCHS = 30, 30
# What the table shows -> the checkpoint.
WEIGHTS = {
    "dense": "runs/train/dense/weights/best.pt",
    "pruned": "pruned.pt",
    "recovered": "recovered.pt",
    "fine-tuned": "runs/train/fine-tuned/weights/best.pt",
    "same size from scratch": "runs/train/from-scratch/weights/best.pt",
}


def main() -> None:
    """Run the steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to work in")
    out = parser.parse_args().out.resolve()
    began = time.perf_counter()
    clear(out)
    os.chdir(out)
    # Steps this small gain nothing from a second thread, and two trainings run side by side.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_stages()
    print("\n# mAP of each stage on images that no training has seen, and what it costs\n")
    rows = [f"{name}={path}" for name, path in WEIGHTS.items()]
    options = ["--data", "data/shapes.yaml", "--split", "test", "--img-size", str(SIZE)]
    finish(subprocess.Popen([sys.executable, str(COMPARE), *options, *rows]))
    print(f"\nimages with boxes    {Path('runs/detect/boxes').resolve()}")
    print(f"the ONNX file        {Path('fine-tuned.onnx').resolve()}")
    print(f"all in all           {time.perf_counter() - began:.0f} s")


def run_stages() -> None:
    """Make the data; train, prune, recover, fine-tune; train the control."""
    budget = "--macs 0.25 --data data/shapes.yaml"
    step(
        "an image set: circles, squares and triangles among clutter",
        f"data shapes --out data/shapes.yaml --images {IMAGES} --size {SIZE} "
        "--split 0.625,0.125,0.25",
    )
    step(
        "a dense network, from scratch",
        f"train --cfg {os.path.relpath(CFG)} --epochs {DENSE_EPOCHS} {recipe()} --name dense",
    )
    step(
        "one file with network and weights; other people's checkpoints come in this way",
        f"whole --weights {WEIGHTS['dense']}",
    )
    step(
        "three quarters of the MACs go, from the channels whose loss hurts least; verified",
        f"global --weights whole_model.pt {budget} --out {WEIGHTS['pruned']}",
    )
    step(
        "the same cut, recovered by least squares on training images, without any training",
        f"global --weights whole_model.pt {budget} --reconstruct --score "
        f"--out {WEIGHTS['recovered']}",
    )
    step(
        "the pruned structure as a plain cfg, for the control",
        f"export --weights {WEIGHTS['recovered']} --format darknet --out small.cfg",
    )
    control = start(
        "the control, beside what follows: that cfg, from scratch, for as many epochs in all",
        f"train --cfg small.cfg --epochs {DENSE_EPOCHS + TUNE_EPOCHS} {recipe()} "
        "--name from-scratch",
        log=Path("from-scratch.log"),
    )
    step(
        "fine-tuning, with the dense network as teacher",
        f"train --weights {WEIGHTS['recovered']} --pt --teacher whole_model.pt "
        f"--epochs {TUNE_EPOCHS} {recipe()} --name fine-tuned",
    )
    step(
        "ONNX, checked against torch",
        f"export --weights {WEIGHTS['fine-tuned']} --data data/shapes.yaml --out fine-tuned.onnx",
    )
    step(
        "boxes by ONNX Runtime: what is deployed needs neither torch nor this project",
        "detect --weights fine-tuned.onnx --source data/shapes/images/test --name boxes",
    )
    print("\n# waiting for the control", flush=True)
    finish(control)


def recipe() -> str:
    """Return the options that all three trainings share."""
    return (
        f"--data data/shapes.yaml --img-size {SIZE} --batch-size 8 --nominal-batch 8 --noval "
        f"--cache ram --workers 0 --hyp {os.path.relpath(HYP)}"
    )


def step(why: str, words: str) -> None:
    """Run a command as typed, and wait for it."""
    began = time.perf_counter()
    finish(start(why, words))
    print(f"({time.perf_counter() - began:.0f} s)", flush=True)


def start(why: str, words: str, *, log: Path | None = None) -> subprocess.Popen[bytes]:
    """Print a command as typed and start it; with `log` what it says goes there."""
    print(f"\n# {why}\n$ prune {words}", flush=True)
    command = [sys.executable, "-m", "prune", *shlex.split(words)]
    if log is None:
        return subprocess.Popen(command)
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a command; a failure ends the demo."""
    if process.wait():
        sys.exit(f"demo: {process.args!r} failed with status {process.returncode}")


def clear(folder: Path) -> None:
    """Empty the demo's own folder; a folder with other things in it is left alone."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).is_file():
        sys.exit(f"demo: {folder} holds other files; choose another folder by --out")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


if __name__ == "__main__":
    main()
