"""The main commands on a system without Unix's own modules, without fork, and without links."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import tiny

# Python imports this file at the start of every process, so that children lack the same.
WITHOUT = """\
import os, sys

for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "mkfifo", "getuid", "geteuid", "O_NOFOLLOW", "O_NONBLOCK"):
    if hasattr(os, name):
        delattr(os, name)


def refuse(*_, **__):
    raise OSError(1314, "A required privilege is not held by the client")


os.symlink = os.link = refuse
"""
VOC = (
    "<annotation><filename>{name}.png</filename><size><width>64</width><height>64</height>"
    "<depth>3</depth></size><object><name>red</name><bndbox><xmin>3</xmin><ymin>4</ymin>"
    "<xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>"
)


def test_the_main_commands_need_nothing_of_unix_alone(tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(WITHOUT)
    path = [str(tmp_path / "without"), *(entry for entry in sys.path if entry)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}

    def prune(*words: object) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "prune", *map(str, words)],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    tiny.data(tmp_path)
    tiny.cfg(tmp_path)
    voc = tmp_path / "voc"
    voc.mkdir()
    for image in (tmp_path / "images" / "train").iterdir():
        image.rename(voc / image.name)
        (voc / f"{image.stem}.xml").write_text(VOC.format(name=image.stem))
    said = prune("data", "voc", "voc", "--out", "d.yaml", "--split", "0.5,0.5,0")
    assert "links cannot be made here, so the images are copied" in said
    copies = list((tmp_path / "d" / "images").rglob("*.png"))
    assert len(copies) == 6
    assert not any(copy.is_symlink() for copy in copies)
    words = ["--data", "d.yaml", "--img-size", 64, "--batch-size", 2, "--workers", 0]
    prune("train", "--cfg", "tiny32.cfg", *words, "--epochs", 1, "--no-plots")
    best = "runs/train/exp/weights/best.pt"
    prune("conv", "--weights", best, "--layer", 3, "--amount", 0.5, "--out", "cut.pt")
    prune("val", "--weights", "cut.pt", *words, "--no-plots")
    prune("export", "--weights", "cut.pt", "--out", "cut.onnx")
    prune("bench", "cut.onnx", "--runtime", "onnxruntime", "--rounds", 2)
    prune("detect", "--weights", "cut.onnx", "--source", "images/val")
