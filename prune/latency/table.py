"""What layers took on this machine, by their shape; kept in a file, so that it is measured once."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prune import caches
from prune.atomic import write_text
from prune.bench.machine import machine
from prune.errors import InputError
from prune.latency.form import Form

FORMAT = "prune-latency/1"


@dataclass(frozen=True)
class Sample:
    """A layer of some kind that took `ms` milliseconds, with so many channels in and out."""

    kind: str
    channels_in: int
    channels_out: int
    ms: float


@dataclass(frozen=True)
class Table:
    """Samples by kind, and the step in which channels matter.

    Attributes:
        step: a runtime computes channels in blocks of so many; the last block costs as if full.
        samples: by the kind of the layer.
    """

    step: int
    samples: Mapping[str, tuple[Sample, ...]]

    def with_samples(self, more: Iterable[Sample]) -> Table:
        """Copy the table with more samples; older ones of the same kind and widths go."""
        fresh = tuple(more)
        again = {(one.kind, one.channels_in, one.channels_out) for one in fresh}
        joined: dict[str, tuple[Sample, ...]] = defaultdict(tuple)
        for kind, own in self.samples.items():
            kept = (x for x in own if (x.kind, x.channels_in, x.channels_out) not in again)
            joined[kind] = tuple(kept)
        for sample in fresh:
            joined[sample.kind] += (sample,)
        return Table(self.step, dict(joined))

    def without(self, kinds: Collection[str]) -> Table:
        """Copy the table without the samples of some kinds."""
        return Table(self.step, {k: own for k, own in self.samples.items() if k not in kinds})


def place(form: Form, *, threads: int) -> Path:
    """Name the file of this machine, a runtime's version, INT8 or not and a number of threads."""
    here = machine([form.runtime])
    precision = "int8 " * form.int8
    said = f"{here.cpu} {form.runtime} {here.versions[form.runtime]} {precision}{threads} threads"
    name = re.sub(r"[^a-z0-9.]+", "-", said.lower()).strip("-")
    return caches.folder("latency") / f"{name}.json"


def load(path: Path) -> Table | None:
    """Read a table; None where there is none yet.

    Raises:
        InputError: the file is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT or int(found["step"]) < 1:
            raise ValueError(f"format {found['format']!r}, step {found['step']!r}")
        rows = [_sample(*row) for row in found["samples"]]
        return Table(int(found["step"]), {}).with_samples(rows)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it to measure anew") from error


def _sample(kind: str, channels_in: int, channels_out: int, ms: float) -> Sample:
    if not isinstance(kind, str) or not math.isfinite(ms) or min(channels_in, channels_out, ms) < 0:
        raise ValueError(f"a sample of {kind!r}")
    return Sample(kind, int(channels_in), int(channels_out), float(ms))


def save(table: Table, path: Path) -> None:
    """Write a table.

    Raises:
        InputError: the file cannot be written.
    """
    rows = [
        [s.kind, s.channels_in, s.channels_out, round(s.ms, 6)]
        for own in table.samples.values()
        for s in own
    ]
    document = {"format": FORMAT, "step": table.step, "samples": rows}
    write_text(path, json.dumps(document, separators=(",", ":")))
