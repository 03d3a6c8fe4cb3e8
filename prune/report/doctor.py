"""What this machine and this installation have, and what is missing: `prune doctor`."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from prune import __version__
from prune.runtimes import other_processes
from prune.runtimes.machine import machine
from prune.train.memory import available

# Of the packages that everything needs, those whose version decides what works.
PACKAGES = (
    "torch",
    "torch-pruning",
    "numpy",
    "opencv-python-headless",
    "onnx",
    "onnxruntime",
    "onnxslim",
)
# What each package that is not needed would bring, and how it is installed.
OPTIONAL = {
    "openvino": ("detector-prune[openvino]", "times and quantises files for Intel processors"),
    "ncnn": ("detector-prune[ncnn]", "writes and times files for ARM boards and phones"),
    "wandb": ("wandb", "shows the figures of a training there (prune train --log wandb)"),
    "mlflow": ("mlflow", "shows the figures of a training there (prune train --log mlflow)"),
}
# Words in /proc/cpuinfo of x86 and of ARM, and what the instructions are good for.
INSTRUCTIONS = {
    "AVX2": (("avx2",), ""),
    "AVX-512": (("avx512f",), ""),
    "INT8": (("avx512_vnni", "avx_vnni", "asimddp"), "without, INT8 files gain little"),
    "bfloat16": (("avx512_bf16", "bf16"), "without, prune train --bf16 is slow"),
    "AMX": (("amx_int8",), ""),
}
_SCARCE_GIB = 2.0  # of disk or memory: what a training of a small network needs


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        area: what it belongs to: software, extras, processor, gpu, memory or disk.
        name: what was looked at.
        found: what was found, in words.
        note: what follows from it, or what would help; empty where nothing does.
    """

    area: str
    name: str
    found: str
    note: str = ""


def examine(folder: Path) -> list[Finding]:
    """Look at the installation, the machine, and the disk that holds `folder`."""
    return [
        *_software(),
        *_extras(),
        *_processor(),
        *_gpus(),
        *_memory(),
        *_disks(folder),
    ]


def _software() -> Iterator[Finding]:
    yield Finding("software", "prune", __version__)
    yield Finding("software", "python", platform.python_version())
    for name in PACKAGES:
        yield Finding("software", name, _version(name) or "missing")


def _extras() -> Iterator[Finding]:
    for name, (package, use) in OPTIONAL.items():
        version = _version(name)
        note = "" if version else f"pip install {shlex.quote(package)}: {use}"
        yield Finding("extras", name, version or "missing", note)


def _processor() -> Iterator[Finding]:
    here = machine([])
    total = os.cpu_count() or here.cores
    load = "unknown" if here.load is None else f"{here.load:.2f}"
    busy = other_processes.note(other_processes.look(), threads=here.cores) or ""
    limit = os.environ.get("OMP_NUM_THREADS")
    yield Finding("processor", "name", here.cpu)
    yield Finding("processor", "cores", f"{here.cores} of {total}")
    yield Finding(
        "processor",
        "threads",
        str(torch.get_num_threads()),
        f"OMP_NUM_THREADS is {limit}" if limit else "",
    )
    yield Finding("processor", "load", load, busy)
    flags = _flags()
    for name, (words, lack) in INSTRUCTIONS.items():
        there = any(word in flags for word in words)
        known = "yes" if there else "no" if flags else "unknown"
        yield Finding("processor", name, known, lack if known == "no" else "")


def _gpus() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else "; this build of torch has no CUDA"
        yield Finding("gpu", "CUDA", "none", f"training runs on the processor{built}")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        yield Finding("gpu", f"CUDA {index}", f"{facts.name}, {_gib(facts.total_memory)}")


def _memory() -> Iterator[Finding]:
    free = available()
    yield Finding("memory", "free", _gib(free), _scarce(free, "close other programs"))


def _disks(folder: Path) -> Iterator[Finding]:
    shared = Path("/dev/shm")
    places = {"here": folder, "temporary": Path(tempfile.gettempdir())}
    if shared.is_dir():
        places["shared memory"] = shared  # through which loader processes pass images
    for name, place in places.items():
        free = shutil.disk_usage(place).free
        help_ = "use --workers 0" if place == shared else "runs and exports are written there"
        yield Finding("disk", name, f"{_gib(free)} free", _scarce(free, help_))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _flags() -> frozenset[str]:
    """Read the instructions that the processor has; none where the system does not list them."""
    facts = Path("/proc/cpuinfo")
    if not facts.is_file():
        return frozenset()
    lines = facts.read_text(encoding="utf-8", errors="replace").splitlines()
    named = (line.partition(":") for line in lines)
    lists = [words for key, _, words in named if key.strip() in ("flags", "Features")]
    return frozenset(" ".join(lists).split())


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _scarce(free: float, help_: str) -> str:
    return f"little is left: {help_}" if free < _SCARCE_GIB * 2**30 else ""
