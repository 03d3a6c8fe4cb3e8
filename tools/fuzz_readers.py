"""The readers that `fuzz.py` tries: a small sound file for each, and how it is changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import mutations
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from prune import checkpoint, cli
from prune.auto import journal, pipeline
from prune.checkpoint.foreign.weights import write_weights
from prune.cli import console, recorded
from prune.common import hyperparameters
from prune.common.size import Size
from prune.data import coco, spec, voc
from prune.data.convert import Options
from prune.data.images import read_image
from prune.data.labels import Form, scan
from prune.data.orientation import orientation
from prune.data.store import image_sizes
from prune.errors import RunError
from prune.evaluate.runner import open_weights
from prune.latency import table
from prune.models.darknet import build
from prune.models.sections import parse
from prune.pruner.importance import fingerprint
from prune.pruner.sensitivity import rows
from prune.runtimes.file_inputs import settle
from prune.train import checkpointing, initial_weights, run
from prune.train.resume import restore
from prune.train.settings import Settings

# Two heads, a shortcut, batch normalisation: what a file can say of a network.
_CONVOLUTION = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\n"
_HEAD = (
    "[convolutional]\nfilters=21\nsize=1\nstride=1\npad=1\nactivation=linear\n[yolo]\nmask={}\n"
    "anchors=10,10, 16,16, 24,24, 20,20, 30,30, 40,40\nclasses=2\nnum=6\nscale_x_y=1.05\n"
)
CFG = (
    "[net]\nwidth=64\nheight=64\nchannels=3\n"
    + "".join(f"{_CONVOLUTION.format(8, 2)}activation={name}\n" for name in ("leaky", "mish"))
    + f"{_CONVOLUTION.format(12, 2)}activation=swish\n"
    + f"{_CONVOLUTION.format(12, 1)}activation=leaky\n[shortcut]\nfrom=-2\nactivation=linear\n"
    + f"{_HEAD.format('0,1,2')}[route]\nlayers=-3\n[maxpool]\nsize=2\nstride=2\n"
    + f"[route]\nlayers=-1\n{_HEAD.format('3,4,5')}"
)
NAMES = ("red", "blue")
SIDE = 64  # pixels


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: what it reads.
        file: the name of the file that is changed.
        read: reads it, among the other files of `prepare`.
        mutations: how it is changed.
    """

    name: str
    file: str
    read: Callable[[Path], object]
    mutations: tuple[mutations.Mutation, ...]


def _command(*words: str) -> Callable[[Path], object]:
    """Return a reader that runs a command in this process."""

    def read(path: Path) -> object:
        name, *rest = words
        options = cli.read(name, rest)
        console.logger()
        return cli.module(name).run(options)

    return read


def _detect(path: Path) -> None:
    """Open weights and run them on one image."""
    runner = open_weights(path)
    size = runner.image_size(None)
    runner.detect(torch.zeros(1, 3, size.height, size.width))


def _resume(path: Path) -> None:
    """Take up a training where it stopped."""
    found, state = initial_weights.open_interrupted(path, names=NAMES)
    restore(replace(_training(), net=found.net), state, batches=3)


def _training() -> run.Run:
    settings = Settings(epochs=2, imgsz=Size.of(SIDE))
    device = torch.device("cpu")
    return run.start(build(CFG), 3, settings=settings, hyp=hyperparameters.SCRATCH, device=device)


def _images(path: Path) -> None:
    """Read an image's size, then decode it, then read how it is turned."""
    image_sizes([path])
    orientation(path.read_bytes(), read_image(path))


def _ncnn(path: Path) -> None:
    """Read the text of a network whose weights lie beside it."""
    path.with_suffix(".bin").touch()
    settle(path, threads=1)


def _labels(path: Path) -> list[str]:
    return [str(problem) for problem in scan(path, Form(2)).problems]


def _options(path: Path) -> object:
    return cli.read("train", ["--config", str(path)])


def _stages_end(*words: object, **_: object) -> object:
    raise RunError(f"no stage is done here: {words}")


def _auto(path: Path) -> None:
    """Go on with a run of which every stage is done; none is started where a file lacks one."""
    for name in ("evaluate", "export", "prune", "fit", "quantize", "compare", "latencies_ms"):
        setattr(pipeline, name, _stages_end)
    _command("auto", "--resume", ".")(path)


_CUT = ("global", "--weights", "dense.pt", "--macs", "0.7", "--criterion", "l1", "--dry-run")
_READERS = (
    Reader("data.yaml", "data.yaml", _command("data", "check", "data.yaml"), mutations.YAML),
    Reader("list of images", "list.txt", lambda _: spec.load(Path("lists.yaml")), mutations.TEXT),
    Reader("names", "x.names", lambda _: spec.load(Path("named.yaml")), mutations.TEXT),
    Reader(".data", "x.data", spec.load, mutations.TEXT),
    Reader("labels", "a.txt", _labels, mutations.TEXT),
    Reader("VOC", "voc/a.xml", lambda _: voc.read([Path("voc")], Options()), mutations.TEXT),
    Reader("COCO", "coco.json", lambda p: coco.read([coco.Source(p)], Options()), mutations.JSON),
    Reader("PNG", "a.png", _images, mutations.PNG),
    Reader("JPEG", "a.jpg", _images, mutations.JPEG),
    Reader("cfg", "x.cfg", _command("show", "x.cfg", "--groups"), mutations.TEXT),
    Reader(".weights", "y.weights", _command("show", "y.weights"), mutations.BYTES),
    Reader("checkpoint", "dense.pt", _command("show", "dense.pt"), mutations.TORCH),
    Reader("checkpoint for detect", "dense.pt", _detect, mutations.TORCH),
    Reader("public pickle", "y.pt", _command("show", "y.pt"), mutations.TORCH),
    Reader("state of a training", "last.pt", _resume, mutations.TORCH),
    Reader("opt.yaml", "opt.yaml", lambda path: recorded.read(path, "train"), mutations.YAML),
    Reader("hyp.yaml", "hyp.yaml", hyperparameters.load, mutations.YAML),
    Reader("file of --config", "c.yaml", _options, mutations.YAML),
    Reader("limits", "limits.yaml", _command(*_CUT, "--limits", "limits.yaml"), mutations.YAML),
    Reader(
        "plan",
        "plan.json",
        _command("apply", "--weights", "dense.pt", "--plan", "plan.json", "--dry-run"),
        mutations.JSON,
    ),
    Reader(
        "sensitivity",
        "sensitivity.json",
        _command(*_CUT, "--sensitivity", "sensitivity.json"),
        mutations.JSON,
    ),
    Reader("journal of auto", "auto.json", _auto, mutations.JSON),
    Reader("latency table", "table.json", table.load, mutations.JSON),
    Reader("ONNX for detect", "m.onnx", _detect, mutations.ONNX),
    Reader("ONNX for bench", "m.onnx", lambda path: settle(path, threads=1), mutations.ONNX),
    Reader(".param of ncnn", "m.param", _ncnn, mutations.TEXT),
)
READERS: Mapping[str, Reader] = {reader.name: reader for reader in _READERS}


def prepare() -> None:
    """Write the sound files into the current folder."""
    Path("voc").mkdir()
    Path("images").mkdir()
    Path("labels").mkdir()
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    for name in ("images/a.png", "voc/a.png", "a.png", "a.jpg"):
        cv2.imwrite(name, image)
    for name, text in TEXTS.items():
        Path(name).write_text(text)
    for name, document in DOCUMENTS.items():
        Path(name).write_text(json.dumps(document, indent=1))
    _write_weights()
    _write_onnx(Path("m.onnx"))


BOX = "0 0.5 0.5 0.2 0.2\n"
TEXTS = {
    "data.yaml": "path: .\ntrain: images\nval: [images]\nnc: 2\nnames:\n  0: red\n  1: blue\n",
    "lists.yaml": "train: list.txt\nnames: [red, blue]\n",
    "list.txt": "images/a.png\n./images/a.png\n",
    "named.yaml": "train: images\nnames: x.names\nnc: 2\n",
    "x.names": "red\nblue\n",
    "x.data": "classes = 2\ntrain = list.txt\nvalid = list.txt\nnames = x.names\nbackup = b/\n",
    "a.txt": f"{BOX}1 0.1 0.1 0.2 0.1 0.2 0.2\n",
    "labels/a.txt": BOX,
    "voc/a.xml": (
        "<annotation><filename>a.png</filename><size><width>40</width><height>30</height>"
        "<depth>3</depth></size><object><name>red</name><difficult>0</difficult><bndbox>"
        "<xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>12</ymax></bndbox></object></annotation>"
    ),
    "x.cfg": CFG,
    "y.cfg": CFG,
    "opt.yaml": (
        "weights: dense.pt\ndata: data.yaml\nepochs: 3\nbatch_size: 2\nimg_size: [64, 64]\n"
        "hyp: null\nname: run\nproject: runs\nlog: mlflow\ncache: ram\nseed: 0\n"
    ),
    "hyp.yaml": "lr0: 0.01\nmomentum: 0.9\nwarmup_epochs: 3.0\nmosaic: 1.0\nmixup: 0.1\n",
    "c.yaml": "weights: dense.pt\nepochs: 3\nimg-size: [64, 64]\nfreeze: [0, 1]\ncache: ram\n",
    "limits.yaml": (
        "max_ratio: 0.9\nmin_channels: 2\nround_to: 2\nexclude: []\n"
        "layers:\n  1: {max_ratio: 0.7}\n  'module_list.3*': {max_ratio: 0.8}\n"
    ),
    "m.param": (
        "7767517\n2 2\nInput images 0 1 images 0=64 1=64 2=3\n"
        "Convolution c 1 1 images out 0=8 1=3 11=3 2=1 12=1 3=2 13=2 4=1 14=1 5=1 6=216\n"
    ),
    "m.json": '{"names": ["red", "blue"], "imgsz": 64, "stride": 8}',
}
_RATIO = {"middle": 0.5, "low": 0.4, "high": 0.6}
_FILES = ("dense.onnx", "pruned.onnx", "pruned-int8.onnx")
DOCUMENTS: Mapping[str, object] = {
    "coco.json": {
        "images": [{"id": 1, "file_name": "images/a.png", "width": 40, "height": 30}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 10], "iscrowd": 0}
        ],
        "categories": [{"id": 3, "name": "red"}],
    },
    "table.json": {
        "format": table.FORMAT,
        "step": 8,
        "samples": [["conv 3x3", 8, 8, 0.5], ["conv 3x3", 8, 16, 0.7], ["shortcut", 8, 8, 0.1]],
    },
    "auto.json": {
        "format": journal.FORMAT,
        "wish": {
            **{"weights": "dense.pt", "data": "data.yaml", "latency": 0.5, "is_share": True},
            **{"int8": True, "max_drop": 1.0, "runtime": "onnxruntime", "threads": 1},
            **{"imgsz": 64, "epochs": 1, "activation": "relu", "depth": "0", "training": []},
            **{"device": "cpu", "seed": 0, "started_in": ""},
        },
        "stages": {
            "dense": {"map": 0.5, "ms": 10.0, "file": _FILES[0], "seconds": 1.0},
            "cut": {"goal": 0.5, "seconds": 1.0},
            "tune": {"epochs": 1},
            "score": {"map": 0.49},
            "export": {"file": _FILES[1]},
            "quantize": {"file": _FILES[2]},
            "bench": {
                "rows": [
                    {"file": name, "runtime": "onnxruntime", "precision": "FP32", "map": 0.5}
                    | {"median_ms": 5.0, "bytes": 1000, "ratio_to_first": 0.5}
                    | {"ratio_low": 0.4, "ratio_high": 0.6}
                    for name in _FILES
                ],
                "ratios": {name: _RATIO for name in _FILES},
            },
        },
    },
}


def _write_weights() -> None:
    """Write a network as files of all kinds: ours, public, Darknet's, a training's; and a plan."""
    torch.manual_seed(0)
    net = build(CFG)
    own = checkpoint.capture(net, names=NAMES, imgsz=SIDE)
    checkpoint.save(own, Path("dense.pt"))
    torch.save({"epoch": 1, "model": net.state_dict(), "optimizer": None}, "y.pt")
    write_weights(Path("y.weights"), net.state_dict(), parse(CFG))
    began = _training()
    for parameter in began.net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    began.optimizer.step()  # so that it has momentum
    origin = checkpointing.Origin(NAMES, "data.yaml")
    checkpointing.save(
        began, [{"epoch": 1.0, "train_loss": 2.0, "seconds": 3.0}], origin=origin, folder=Path()
    )
    _command(*_CUT, "--plan-out", "plan.json")(Path())
    cut = {"group": "module_list.0.Conv2d", "index": 0, "channels": 8, "ratio": 0.5, "removed": 4}
    found = {
        **{"format": rows.FORMAT, "network": checkpoint.network_id(own.cfg), "baseline": 0.5},
        **{"weights": fingerprint(net), "criterion": "l1", "scope": "root", "complete": True},
        "rows": [{**cut, "macs": 1000, "params": 100, "value": 0.4, "drop": 0.1}],
    }
    Path("sensitivity.json").write_text(json.dumps(found, indent=1))


def _write_onnx(path: Path) -> None:
    """Write a file that takes images and gives numbers, with the metadata of `prune export`."""
    kind = TensorProto.FLOAT
    takes = helper.make_tensor_value_info("images", kind, ["N", 3, "H", "W"])
    gives = helper.make_tensor_value_info("output", kind, ["N", None, 7])
    value = helper.make_tensor("weights", kind, [7, 3, 1, 1], [0.1] * 21)
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [0, 7, -1])
    nodes = [
        helper.make_node("Conv", ["images", "weights"], ["maps"]),
        helper.make_node("Reshape", ["maps", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["output"], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(nodes, "g", [takes], [gives], [value, shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"names": json.dumps(NAMES), "stride": "8", "imgsz": "[64, 64]"})
    onnx.save(model, path)
