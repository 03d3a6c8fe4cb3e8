"""What pruning returns: frozen results whose fields are the keys of the JSON document."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Change:
    """A total of the network before and after the cut."""

    before: int
    after: int


@dataclass(frozen=True)
class PrunedGroup:
    """A coupled group that loses channels.

    Attributes:
        root: name of the group's first layer.
        before: channels of that layer in the original.
        after: channels of that layer in the pruned model.
        members: names of all layers that lose channels with it, the first layer included.
    """

    root: str
    before: int
    after: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class RemovedBlock:
    """A residual block that is removed.

    Attributes:
        layers: indices of its layers.
        score: its importance; None where blocks were not compared.
        params: parameters of the block.
        macs: MACs of the block per image.
    """

    layers: tuple[int, ...]
    score: float | None
    params: int
    macs: int


@dataclass(frozen=True)
class Verification:
    """The numerical comparison of the pruned model with the masked original.

    Attributes:
        max_abs_diff: largest absolute difference of any head map on a random image.
    """

    max_abs_diff: float


@dataclass(frozen=True)
class RecoveryStep:
    """One recovery step and its effect.

    Attributes:
        step: "original" and "cut", "activation" where it changes the network, then the steps that
            were requested.
        kept: whether its result was kept.
        images: number of images that it looked at.
        seconds: its duration.
        layers: how many layers it changed; None where that is not counted.
        map50: mAP@.5 after it, in 0..1; None where nothing was evaluated.
        map: likewise mAP@.5:.95.
    """

    step: str
    kept: bool = True
    images: int = 0
    seconds: float = 0.0
    layers: int | None = None
    map50: float | None = None
    map: float | None = None


@dataclass(frozen=True)
class Latency:
    """What a latency budget requested, predicted and measured.

    The original is timed as it is, in float; the pruned model in the form in which it will be
    deployed. All milliseconds refer to one measurement of the original: the speed of a machine
    changes by more than the prediction errs.

    Attributes:
        runtime: "onnxruntime" or "openvino".
        int8: whether the pruned model is timed in INT8.
        activation: the activation of the pruned model; None for its own.
        threads: inference threads.
        busy: whether other processes used the cores meanwhile.
        requested: ratio of the original's time that was requested.
        predicted: ratio that was predicted.
        ratio: ratio that was measured, the median.
        ratio_low: lower end of its confidence interval.
        ratio_high: upper end of its confidence interval.
        before_ms: time of the original per image.
        after_ms: measured time of the pruned model per image.
        predicted_ms: predicted time of the pruned model per image.
        limit_ms: requested time per image.
    """

    runtime: str
    int8: bool
    activation: str | None
    threads: int
    busy: bool
    requested: float
    predicted: float
    ratio: float
    ratio_low: float
    ratio_high: float
    before_ms: float
    after_ms: float
    predicted_ms: float
    limit_ms: float


@dataclass(frozen=True)
class CutResult:
    """What a cut removes; known before the cut is verified.

    Attributes:
        params: parameters of the network.
        macs: MACs of the network per image.
        groups: the groups that lose channels.
        blocks: the blocks that are removed.
    """

    params: Change
    macs: Change
    groups: tuple[PrunedGroup, ...]
    blocks: tuple[RemovedBlock, ...]


@dataclass(frozen=True)
class PruneResult(CutResult):
    """A pruned model that was verified.

    Attributes:
        proof: the verification.
        out: the checkpoint that was written; None after a dry run.
        recovery: one entry per recovery step.
        latency: None without a latency budget.
    """

    proof: Verification
    out: str | None
    recovery: tuple[RecoveryStep, ...]
    latency: Latency | None

    def document(self) -> dict[str, object]:
        """Return the JSON document; it has "latency" only with a latency budget."""
        document = asdict(self)
        if self.latency is None:
            del document["latency"]
        return document
