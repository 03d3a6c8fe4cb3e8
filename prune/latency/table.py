"""Times of layers on this machine by their shape, saved in a file to be measured only once."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.common import cache_dir
from prune.common.files import write_text
from prune.common.inputs import exists
from prune.common.plain_json import read_json_file
from prune.common.schema import expect, listed, mapping, number, parts, text, whole
from prune.errors import InputError
from prune.latency.form import Form
from prune.runtimes.machine import machine

FORMAT = "prune-latency/1"


@dataclass(frozen=True)
class Sample:
    """The time of a layer of some kind, in milliseconds, with so many channels in and out."""

    kind: str
    channels_in: int
    channels_out: int
    ms: float


@dataclass(frozen=True)
class Table:
    """Samples by kind, and the block size of the runtime.

    Attributes:
        step: the runtime computes channels in blocks of this size; the last one counts as full.
        samples: by the kind of the layer.
    """

    step: int
    samples: Mapping[str, tuple[Sample, ...]]

    def with_samples(self, more: Iterable[Sample]) -> Table:
        """Copy the table with more samples; they replace those of the same kind and widths."""
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
    return cache_dir.folder("latency") / f"{name}.json"


def load(path: Path) -> Table | None:
    """Read a table; return None where there is none yet.

    Raises:
        InputError: the file is damaged.
    """
    if not exists(path):
        return None
    try:
        found: Any = read_json_file(path)
        expect(found, _FILE, where=str(path))
    except InputError as error:
        raise InputError(f"{path} is damaged ({error}); remove it to measure anew") from error
    rows = [Sample(*row) for row in found["samples"]]
    return Table(found["step"], {}).with_samples(rows)


_FILE = mapping(
    {
        "format": text(choices=(FORMAT,)),
        "step": whole(1, 4096),
        "samples": listed(parts(text(), whole(0), whole(0), number(0, 1e9))),
    }
)


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
