"""One interface to what can detect: a checkpoint of ours run by torch, or an ONNX file."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prune import checkpoint
from prune.checkpoint import Checkpoint, convert
from prune.checkpoint.convert import AS_IT_IS, Reading
from prune.checkpoint.reading import open_with_note
from prune.common import device, schema
from prune.common.dimensions import CHANNELS, STRIDE
from prune.common.inputs import open_input, printable, reading, shown
from prune.common.notes import note
from prune.common.plain_json import BrokenJsonError, read_json
from prune.common.size import Size
from prune.data.frames import Shape
from prune.errors import CheckpointError, DeviceError, InputError, RunError, first_line
from prune.evaluate.collect import Detector
from prune.evaluate.fuse_batchnorm import fused

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg


@dataclass(frozen=True)
class Runner:
    """A detector ready to run, and what it expects.

    Attributes:
        detect: images [N, 3, H, W] float 0..1 on `device` -> decoded [N, boxes, 5 + classes].
        names: the classes.
        imgsz: the size it was made for.
        stride: sides of an image must be multiples of it.
        device: where images are put.
        shape: the one height and width it takes; None: any.
        shares: whether several threads may detect at once; otherwise it has threads of its own.
    """

    detect: Detector
    names: tuple[str, ...]
    imgsz: Size
    stride: int
    device: torch.device
    shape: Shape | None = None
    shares: bool = False

    def image_size(self, requested: Size | None) -> Size:
        """Return the size that images are scaled to fit into: the requested one, or its own.

        Raises:
            InputError: another size than the one it takes, or one that is no multiple of `stride`.
        """
        own = Size(*self.shape) if self.shape else self.imgsz
        size = own if requested is None else requested
        if self.shape and size != self.shape:
            height, width = self.shape
            raise InputError(
                f"image size is {size}, but this file takes images of {height} x {width} only; "
                "leave --img-size out, or export with --dynamic"
            )
        if not size.fits(self.stride):
            raise InputError(
                f"image size is {size}; it must be a multiple of {self.stride}, "
                f"e.g. {size.raised(self.stride)}"
            )
        return size


def open_weights(path: Path, *, device_name: str = "", reading: Reading = AS_IT_IS) -> Runner:
    """Open weights, ours or public ones, or an exported file; `device_name` as for `--device`.

    Raises:
        CheckpointError: the file cannot be used.
        DeviceError: the device is not there.
    """
    if path.suffix.lower() == ".onnx":
        return _open_onnx(path, device_name)
    return run_checkpoint(convert.open_weights(path, reading), device_name=device_name)


def open_runner(path: Path, reading: Reading = AS_IT_IS, *, device_name: str = "") -> Runner:
    """Open weights to detect with; a note says how public ones were read.

    Raises:
        InputError: `reading` sets something that an ONNX file says itself.
        CheckpointError: the file cannot be used.
        DeviceError: the device is not there.
    """
    if path.suffix.lower() != ".onnx":
        return run_checkpoint(open_with_note(path, reading), device_name=device_name)
    for name, value in vars(reading).items():
        if value is not None:
            raise InputError(f"--{name} is not for ONNX files, which say it themselves; remove it")
    return _open_onnx(path, device_name)


def run_checkpoint(loaded: Checkpoint, *, device_name: str = "") -> Runner:
    """Have torch run a checkpoint's network.

    Raises:
        CheckpointError: its weights do not fit its cfg.
        DeviceError: the device is not there.
    """
    chosen = device.choose(device_name)
    net = fused(checkpoint.network(loaded).to(chosen))

    def detect(images: Tensor) -> Tensor:
        with torch.inference_mode():  # the caller's thread may be a new one
            return net.decode(net(images))

    return Runner(detect, tuple(loaded.names), loaded.imgsz, net.stride, chosen, shares=True)


def _open_onnx(path: Path, device_name: str) -> Runner:
    session = _session(path, device_name)
    with reading(path, error=CheckpointError):
        facts: dict[str, str] = session.get_modelmeta().custom_metadata_map
        for entry in (*session.get_inputs(), *session.get_outputs()):
            _ = entry.name, entry.shape, entry.type  # decoded here: what is not UTF-8 raises
    if facts.get("nms") == "True":
        raise CheckpointError(
            f"{path} suppresses its boxes itself, and evaluation and detection need all of them; "
            "export it without --nms"
        )
    names = _names(facts, path)
    shape = _taken(session.get_inputs(), path)
    return Runner(
        _OnnxDetector(session, path, _boxes_output(session, path).name, classes=len(names)),
        names,
        imgsz=_fixed_size(shape, facts, path) if shape else _size(facts, path),
        stride=_stride(_fact(facts, "stride", path), path),
        device=torch.device("cpu"),  # images and boxes; ONNX Runtime moves them itself
        shape=shape,
    )


# Files whose boxes can be evaluated.
READ = (".pt", ".pth", ".weights", ".onnx")


@dataclass(frozen=True)
class _OnnxDetector:
    """Runs a session; a batch that the file fixes is filled up with blank images."""

    session: InferenceSession
    path: Path
    output: str
    classes: int

    def __call__(self, images: Tensor) -> Tensor:
        """Detect: [N, 3, H, W] -> [N, boxes, 5 + classes]."""
        taken = self.session.get_inputs()[0].shape[0]
        size = taken if isinstance(taken, int) else max(len(images), 1)
        return torch.cat([self._run(part, size) for part in torch.split(images, size)])

    def _run(self, images: Tensor, size: int) -> Tensor:
        entry: NodeArg = self.session.get_inputs()[0]
        if excess := Size(*images.shape[2:]).excess(size):  # a fixed batch of open sides
            raise CheckpointError(f"{self.path} takes {size} images per run; {excess}")
        blank = images.new_zeros(size - len(images), *images.shape[1:])
        kind = torch.float16 if "float16" in entry.type else torch.float32
        filled = torch.cat((images, blank)).to(kind).numpy()
        try:
            (decoded,) = self.session.run([self.output], {entry.name: filled})
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise RunError(f"{self.path} failed in ONNX Runtime: {error}") from error
        if decoded.shape[-1] != 5 + self.classes:
            raise CheckpointError(
                f"{self.path} gives {decoded.shape[-1]} numbers per box; with {self.classes} names "
                f"it must be {5 + self.classes}: x, y, w, h, objectness and the classes"
            )
        return torch.from_numpy(decoded[: len(images)])


def _session(path: Path, device_name: str) -> InferenceSession:
    import onnxruntime

    with open_input(path, "onnx", error=CheckpointError) as file:
        if not file.read(1):
            raise CheckpointError(f"{path} is empty")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; they are raised as well
    try:
        return onnxruntime.InferenceSession(path, options, providers=_providers(device_name))
    except DeviceError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base class
        why = printable(first_line(error))
        raise CheckpointError(f"{path} is no ONNX file that can be run: {why}") from error


def _providers(device_name: str) -> list[str]:
    """Choose the providers of ONNX Runtime: the GPU's where there is one, unless cpu is requested.

    Raises:
        DeviceError: a GPU is requested, and this ONNX Runtime has no provider for it.
    """
    import onnxruntime

    cpu, gpu = "CPUExecutionProvider", "CUDAExecutionProvider"
    if gpu in onnxruntime.get_available_providers():
        return [cpu] if device_name.lower() == "cpu" else [gpu, cpu]
    if device_name and device_name.lower() != "cpu":
        raise DeviceError(
            f"device is {device_name!r}, but this ONNX Runtime runs on the CPU only; "
            "try cpu, or install onnxruntime-gpu"
        )
    return [cpu]


def _taken(inputs: Sequence[NodeArg], path: Path) -> Shape | None:
    """Return the one height and width of images that a file takes; None where it takes any.

    Raises:
        CheckpointError: it takes no images, several inputs, or more values than a machine holds.
    """
    shapes = ", ".join(printable(str(entry.shape), 80) for entry in inputs) or "nothing"
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES:
        raise CheckpointError(f"{path} takes {shapes}; it must take images, [N, 3, height, width]")
    fixed = [side if isinstance(side, int) else None for side in inputs[0].shape]
    number, channels, height, width = fixed
    if channels not in (None, 3) or any(side is not None and side < 1 for side in fixed):
        raise CheckpointError(f"{path} takes {shapes}; it must take images, [N, 3, height, width]")
    if excess := Size(height or 1, width or 1).excess(number or 1):
        raise CheckpointError(f"{path} takes {shapes}; {excess}")
    return None if height is None or width is None else (height, width)


_TYPES = ("tensor(float)", "tensor(float16)")


def _boxes_output(session: InferenceSession, path: Path) -> NodeArg:
    for output in session.get_outputs():
        if len(output.shape) == 3:
            return output
    shapes = ", ".join(str(output.shape) for output in session.get_outputs())
    raise CheckpointError(
        f"{path} has no decoded boxes [N, boxes, 5 + classes] among its outputs ({shapes}); "
        "export it without --raw"
    )


def _fact(facts: Mapping[str, str], key: str, path: Path) -> str:
    if key not in facts:
        raise CheckpointError(f"{path} has no {key!r} in its metadata; write it by `prune export`")
    return facts[key]


def _names(facts: Mapping[str, str], path: Path) -> tuple[str, ...]:
    """Read the classes: a list, or a dictionary from number to name as other exporters write."""
    value = _literal(_fact(facts, "names", path))
    if isinstance(value, dict):
        named = {str(key): name for key, name in value.items()}
        numbers = [str(i) for i in range(len(value))]
        if set(named) != set(numbers):
            numbered = "must be numbered from 0 without gaps"
            raise CheckpointError(f"{path}: 'names' in its metadata {numbered}")
        value = [named[number] for number in numbers]
    if not isinstance(value, list) or not 0 < len(value) <= CHANNELS:
        raise CheckpointError(f"{path}: 'names' in its metadata is no list of names")
    for number, name in enumerate(value):
        plain = schema.text() if isinstance(name, str) else schema.whole()  # some number classes
        schema.expect(name, plain, where=str(path), key=f"names[{number}]", error=CheckpointError)
    return tuple(map(str, value))


def _size(facts: Mapping[str, str], path: Path) -> Size:
    size = Size.read(_literal(_fact(facts, "imgsz", path)))
    if size is None or min(size) < 1:
        raise CheckpointError(f"{path}: 'imgsz' in its metadata is no size in pixels")
    if excess := size.excess():
        raise CheckpointError(f"{path}: 'imgsz' in its metadata is {size}; {excess}")
    return size


def _fixed_size(shape: Shape, facts: Mapping[str, str], path: Path) -> Size:
    """Return the only size that a file takes; note where its metadata has another."""
    size = Size(*shape)
    if "imgsz" in facts and Size.read(_literal(facts["imgsz"])) != size:
        its = shown(facts["imgsz"])
        note(f"{path}: 'imgsz' in its metadata is {its}, but the file takes {size.described} only")
    return size


def _stride(fact: str, path: Path) -> int:
    value = _literal(fact)
    if not isinstance(value, int | float) or not 1 <= value <= STRIDE:  # JSON knows NaN, Infinity
        what = f"'stride' in its metadata is {shown(fact)}"
        raise CheckpointError(f"{path}: {what}; it must be a whole number from 1 to {STRIDE}")
    return int(value)


_LONGEST_FACT = 2**22  # letters; 65,536 names of classes take less


def _literal(fact: str) -> object:
    """Read JSON, or the text of a Python literal; None where it is neither, or has no end."""
    if len(fact) > _LONGEST_FACT:
        return None
    try:
        return read_json(fact, lenient=True)
    except BrokenJsonError as broken:
        if broken.line is None:  # it is JSON, but gives a key twice, or nests without end
            return None
    try:
        value: object = ast.literal_eval(fact)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value
