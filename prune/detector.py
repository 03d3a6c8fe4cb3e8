"""`Detector`: a trained detector as one object, with every stage of its way as a method.

    dense = prune.Detector.load("best.pt")
    small = dense.prune(macs=0.5, data="data/mine.yaml", reconstruct=True)
    tuned = small.train(data="data/mine.yaml", teacher=dense, epochs=55)
    tuned.evaluate("data/mine.yaml").map
    tuned.export("mine.onnx")

Every method is the function of a command: its options have the names of that command's options, as
its config documents them, and it returns that function's result.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prune import checkpoint
from prune.auto.config import AutoConfig
from prune.auto.pipeline import auto
from prune.auto.result import AutoResult
from prune.bench import BenchConfig, BenchResult, compare
from prune.checkpoint.summary import ShowConfig, ShowResult, show
from prune.common.files import replacing
from prune.common.notes import Report, silent
from prune.common.size import Size
from prune.evaluate import (
    DetectConfig,
    DetectResult,
    EvaluateConfig,
    EvaluateResult,
    detect,
    evaluate,
)
from prune.export import ExportConfig, ExportResult, WholeConfig, export, to_checkpoint
from prune.latency.by_latency import LatencyConfig
from prune.pruner.by_amount import ConvConfig, LayersConfig
from prune.pruner.by_budget import GlobalConfig
from prune.pruner.by_depth import DepthConfig
from prune.pruner.by_plan import ApplyConfig
from prune.pruner.config import PruneConfig
from prune.pruner.pipeline import prune
from prune.quantize import QuantizeConfig, QuantizeResult, quantize
from prune.train.config import TrainConfig
from prune.train.fit import fit

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
AnyPath = str | Path

# Option -> the config of the pruning command that has it; the first that was given decides.
_PRUNING: Mapping[str, type[PruneConfig]] = {
    "macs": GlobalConfig,
    "params": GlobalConfig,
    "latency": LatencyConfig,
    "layer": ConvConfig,
    "upto": LayersConfig,
    "first": LayersConfig,
    "blocks": DepthConfig,
    "plan": ApplyConfig,
}


class Detector:
    """A detector in a checkpoint.

    Methods that change the network return another detector and leave this one as it is. Where no
    file is named, what they write lies in a temporary folder that lasts as long as the detector
    that it belongs to; `save` puts a checkpoint where it stays.

    Attributes:
        path: the checkpoint.
        result: of the function that made it, e.g. a PruneResult; None for one that was loaded.
    """

    def __init__(self, path: AnyPath, *, result: object = None) -> None:
        self.path = Path(path)
        self.result = result

    def __repr__(self) -> str:
        return f"Detector({str(self.path)!r})"

    @classmethod
    def load(cls, path: AnyPath) -> Detector:
        """Load a checkpoint of ours.

        Raises:
            CheckpointError: the file is none, or is damaged.
        """
        checkpoint.load(Path(path))
        return cls(path)

    @classmethod
    def from_public(cls, weights: AnyPath, **options: Any) -> Detector:
        """Read a .pt of YOLOR, YOLOv4 or YOLOv3, or Darknet .weights, as a checkpoint of ours.

        Args:
            weights: the file.
            options: of `prune whole`, see `export.WholeConfig`: cfg, names, decoding, img_size.

        Raises:
            PruneError: the file cannot be used.
        """
        return cls._made(to_checkpoint, WholeConfig, {"weights": weights, **options})

    @classmethod
    def random(cls, cfg: AnyPath, **options: Any) -> Detector:
        """Make a detector of fresh weights.

        Args:
            cfg: the network, a file or the name of one that comes with prune, "yolor_csp_s".
            options: of `prune whole`, see `export.WholeConfig`: names, data, seed, img_size.

        Raises:
            PruneError: the cfg cannot be used.
        """
        return cls._made(to_checkpoint, WholeConfig, {"cfg": cfg, "random": True, **options})

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return tuple(checkpoint.load(self.path).names)

    def show(self, **options: Any) -> ShowResult:
        """Return layers, coupled groups and costs; options of `checkpoint.summary.ShowConfig`."""
        return show(_config(ShowConfig, {"weights": self.path, **options}))

    def prune(self, *, report: Report = silent, **options: Any) -> Detector:
        """Prune by a budget, a range of layers, single layers, blocks or a plan; always verified.

        Args:
            report: takes a line per remark and recovery step.
            options: which of them is given decides what is done: macs or params (see
                `pruner.by_budget.GlobalConfig`), latency (`latency.by_latency.LatencyConfig`),
                layer (`pruner.by_amount.ConvConfig`), upto or first (`LayersConfig`), blocks
                (`pruner.by_depth.DepthConfig`), or plan (`pruner.by_plan.ApplyConfig`).

        Returns:
            The pruned detector; its `result` has parameters, MACs, groups and the verification.

        Raises:
            PruneError: nothing can be removed so, or an option cannot be used.
            VerificationError: the pruned model differs from the masked original.
        """
        kind = next((kind for name, kind in _PRUNING.items() if name in options), None)
        if kind is None:
            raise TypeError(f"prune() needs one of {', '.join(_PRUNING)}, e.g. macs=0.5")
        return self._made(prune, kind, {"weights": self.path, **options}, report=report)

    def train(
        self,
        data: AnyPath,
        *,
        teacher: Detector | None = None,
        report: Report = silent,
        **options: Any,
    ) -> Detector:
        """Fine-tune, or train a detector of fresh weights.

        Args:
            data: a data.yaml, a Darknet .data file, or a folder.
            teacher: the detector to distill from, usually the one before it was pruned.
            report: takes a line per epoch, and notes.
            options: of `prune train`, see `train.config.TrainConfig`: epochs, batch_size, ...
                Without `project`, all files but the best weights go with the detector.

        Returns:
            The detector with the best weights; its `result` has their metrics.

        Raises:
            PruneError: an input cannot be used, or the run failed.
            KeyboardInterrupt: it was stopped; the run's last.pt is where `project` says.
        """
        with _kept_folder() as folder:
            given = {"weights": self.path, "data": data, "pt": self._is_pruned(), **options}
            given.setdefault("project", folder)
            if teacher is not None:
                given["teacher"] = teacher.path
            result = fit(_config(TrainConfig, given), report=report)
            if result.stopped:
                raise KeyboardInterrupt
        return Detector(result.best, result=result)._with_folder(folder)

    def evaluate(self, data: AnyPath, **options: Any) -> EvaluateResult:
        """Evaluate on a split; options of `evaluate.EvaluateConfig`, without plots by default.

        Raises:
            PruneError: the data cannot be used, or has other classes.
        """
        given = {"weights": self.path, "data": data, "plots": False, **options}
        return evaluate(_config(EvaluateConfig, given))

    def detect(self, source: object, **options: Any) -> DetectResult:
        """Detect on an image, a folder, a video or a stream; options of `evaluate.DetectConfig`.

        Without `project` nothing is written: the boxes are in the result.

        Raises:
            PruneError: the source cannot be read.
        """
        given = {"weights": self.path, "source": str(source), **options}
        if "project" in given:
            return detect(_config(DetectConfig, given))
        with tempfile.TemporaryDirectory() as folder:
            quiet = {"nosave": True, "project": Path(folder)}
            return detect(_config(DetectConfig, {**given, **quiet}))

    def export(self, out: AnyPath, **options: Any) -> ExportResult:
        """Write a file that other programs run, compared with torch; options of `ExportConfig`.

        Raises:
            ExportError: the network cannot be written so, or what was written differs.
        """
        return export(_config(ExportConfig, {"weights": self.path, "out": out, **options}))

    def quantize(
        self, data: AnyPath, out: AnyPath, *, report: Report = silent, **options: Any
    ) -> QuantizeResult:
        """Export to ONNX, then to INT8; options of `quantize.QuantizeConfig`.

        Raises:
            PruneError: the data cannot be used, or the runtime is not installed.
        """
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "float.onnx"
            self.export(weights)
            given = {"weights": weights, "data": data, "out": out, **options}
            return quantize(_config(QuantizeConfig, given), report=report)

    def bench(self, *others: Detector | AnyPath, **options: Any) -> BenchResult:
        """Time this detector and others in turn; options of `bench.BenchConfig`.

        Args:
            others: detectors or files; the ratios are to this detector.
            options: runtime is onnxruntime where it is not given.

        Raises:
            PruneError: a file or a runtime that cannot be used.
        """
        files = [one.path if isinstance(one, Detector) else Path(one) for one in (self, *others)]
        given = {"files": tuple(files), "runtime": "onnxruntime", **options}
        return compare(_config(BenchConfig, given))

    def auto(
        self, data: AnyPath, latency: float | str, *, report: Report = silent, **options: Any
    ) -> AutoResult:
        """Prune, fine-tune, export and quantise until it is fast enough; options of `AutoConfig`.

        Raises:
            PruneError: something cannot be used, or a stage failed.
        """
        given = {"weights": self.path, "data": data, "latency": latency, **options}
        return auto(_config(AutoConfig, given), report=report)

    def save(self, path: AnyPath) -> Detector:
        """Copy the checkpoint to a file, whole or not at all; return the detector in it.

        Raises:
            InputError: the file cannot be written.
        """
        with replacing(Path(path)) as part:
            shutil.copyfile(self.path, part)
        return Detector(path, result=self.result)

    @classmethod
    def _made(
        cls,
        function: Callable[..., object],
        kind: type[Config],
        options: Mapping[str, object],
        **more: object,
    ) -> Detector:
        """Return the detector in the checkpoint that a function writes."""
        with _kept_folder() as folder:
            out = Path(str(options.get("out") or folder / "detector.pt"))
            result = function(_config(kind, {**options, "out": out}), **more)
        return cls(out, result=result)._with_folder(folder)

    def _with_folder(self, folder: Path) -> Detector:
        """Remove a temporary folder together with this detector, at the latest at exit."""
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return self

    def _is_pruned(self) -> bool:
        """Tell whether a cut is in the checkpoint's history."""
        return any("plan" in entry for entry in checkpoint.load(self.path).history)


@contextmanager
def _kept_folder() -> Iterator[Path]:
    """Make a temporary folder that is removed only where the block fails."""
    folder = Path(tempfile.mkdtemp(prefix="prune-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _config(kind: type[Config], options: Mapping[str, object]) -> Config:
    """Make a config of options as Python users write them: texts for paths, 320 for a size.

    Raises:
        TypeError: there is no such option.
    """
    types = {each.name: str(each.type) for each in fields(kind)}
    if unknown := sorted(set(options) - set(types)):
        raise TypeError(
            f"{kind.__name__} has no option {unknown[0]!r}; it has {', '.join(sorted(types))}"
        )
    return kind(**{name: _as_meant(value, types[name]) for name, value in options.items()})


def _as_meant(value: object, kind: str) -> object:
    """Convert one option to the type of its field, as it is written in the config."""
    if isinstance(value, str) and "Path" in kind:
        return Path(value)
    if "Size" in kind and isinstance(value, int | tuple | list) and not isinstance(value, Size):
        return Size.of(value if isinstance(value, int) else (value[0], value[1]))
    if isinstance(value, str | int) and not isinstance(value, bool) and kind.startswith("tuple"):
        return (value,)
    return tuple(value) if isinstance(value, list) else value
