"""What layers took on this machine, by their shape; kept in a file, so that it is measured once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prune.atomic import write_text
from prune.bench.machine import machine
from prune.errors import InputError

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
        """Copy the table with more samples."""
        joined = dict(self.samples)
        for sample in more:
            joined[sample.kind] = (*joined.get(sample.kind, ()), sample)
        return Table(self.step, joined)


def place(runtime: str, *, threads: int) -> Path:
    """Name the file of this machine, a runtime's version and a number of threads."""
    here = machine([runtime])
    said = f"{here.cpu} {runtime} {here.versions[runtime]} {threads} threads"
    name = re.sub(r"[^a-z0-9.]+", "-", said.lower()).strip("-")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "prune" / "latency" / f"{name}.json"


def load(path: Path) -> Table | None:
    """Read a table; None where there is none yet.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(found["format"])
        rows = [Sample(str(k), int(i), int(o), float(ms)) for k, i, o, ms in found["samples"]]
        return Table(int(found["step"]), {}).with_samples(rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it to measure anew") from error


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
