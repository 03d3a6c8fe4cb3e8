"""Walk the whole road on a small generated picture set: `python tools/demo.py --out demo`.

Every step is a command as a user would type it, printed before it runs, so the output doubles as a
tutorial. The last table compares the dense network, the pruned one, the fine-tuned one, and the
control: the pruned structure trained from nothing for as many epochs as the fine-tuned network has
seen in all. A pruned network that does not beat its control was not worth the pruning.
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

# Sizes that fit into six minutes on two cores.
PICTURES, SIZE = 256, 128  # shared out as 160 to train on, 32 to watch, 64 to score
DENSE_EPOCHS, TUNE_EPOCHS = 16, 8
# What the table shows -> the checkpoint.
WEIGHTS = {
    "dense": "runs/train/dense/weights/best.pt",
    "pruned": "model_data/layer_pruning.pt",
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
    road()
    print("\n# what each stage scores on pictures no training has seen, and what it costs\n")
    rows = [f"{name}={path}" for name, path in WEIGHTS.items()]
    options = ["--data", "data/shapes.yaml", "--split", "test", "--img-size", str(SIZE)]
    finish(subprocess.Popen([sys.executable, str(COMPARE), *options, *rows]))
    print(f"\npictures with boxes  {Path('runs/detect/boxes').resolve()}")
    print(f"the ONNX file        {Path('fine-tuned.onnx').resolve()}")
    print(f"all in all           {time.perf_counter() - began:.0f} s")


def road() -> None:
    """Make the data; train, prune, fine-tune; train the control."""
    step(
        "a picture set: circles, squares and triangles among clutter",
        f"data shapes --out data/shapes.yaml --images {PICTURES} --size {SIZE} "
        "--split 0.625,0.125,0.25",
    )
    step(
        "a dense network, from nothing",
        f"train --cfg {os.path.relpath(CFG)} --epochs {DENSE_EPOCHS} {recipe()} --name dense",
    )
    step(
        "one file with network and weights; other people's checkpoints come in this way",
        f"whole --weights {WEIGHTS['dense']}",
    )
    step(
        "half of the channels of layers 0 to 60 go, with all that is coupled to them; proved",
        "layers --upto 60 --amount 0.5",
    )
    step(
        "the pruned structure as a plain cfg, for the control",
        f"export --weights {WEIGHTS['pruned']} --format darknet --out small.cfg",
    )
    control = start(
        "the control, beside what follows: that cfg, from nothing, for as many epochs in all",
        f"train --cfg small.cfg --epochs {DENSE_EPOCHS + TUNE_EPOCHS} {recipe()} "
        "--name from-scratch",
        log=Path("from-scratch.log"),
    )
    step(
        "fine-tuning",
        f"train --weights {WEIGHTS['pruned']} --pt --epochs {TUNE_EPOCHS} {recipe()} "
        "--name fine-tuned",
    )
    step(
        "ONNX, checked against torch",
        f"export --weights {WEIGHTS['fine-tuned']} --out fine-tuned.onnx",
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
