"""What an automatic run has done, a stage an entry, in one file: by it the run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from prune.common.files import write_text
from prune.common.plain_json import read_json_file
from prune.common.schema import Field, expect, listed, mapping, named, number, text, whole

FORMAT = "prune-auto/1"
Facts = dict[str, object]


@dataclass(frozen=True)
class Journal:
    """A run's file.

    Attributes:
        path: where it lies.
        wish: what was asked for, as plain values.
        stages: by name, in the order they were done: what each chose and found, and its seconds.
    """

    path: Path
    wish: Facts
    stages: dict[str, Facts]

    def done(self, stage: str, make: Callable[[], Mapping[str, object]]) -> Facts:
        """Return what a stage found; it is done now unless it was before."""
        if stage not in self.stages:
            start = perf_counter()
            facts = dict(make())
            self.stages[stage] = {**facts, "seconds": round(perf_counter() - start, 1)}
            self.write()
        return self.stages[stage]

    def write(self) -> None:
        """Write the file, whole or not at all."""
        document = {"format": FORMAT, "wish": self.wish, "stages": self.stages}
        write_text(self.path, json.dumps(document, indent=1, default=str))


def read(path: Path) -> Journal:
    """Read a run's file; whether the wish in it can be had is not known here.

    Raises:
        InputError: there is none, or it is damaged.
    """
    found: Any = read_json_file(path, file_names=True, called="the journal")
    fields = {"format": text(choices=(FORMAT,)), "wish": mapping({}), "stages": mapping(_STAGES)}
    expect(found, mapping(fields), where=f"{path} is damaged")
    return Journal(path, found["wish"], found["stages"])


_RATIO = {name: number(0, 1e9) for name in ("middle", "low", "high")}
_ROW = {
    **{name: text() for name in ("file", "runtime", "precision")},
    "map": number(0, 1),
    "median_ms": number(0, 1e9, above=True),
    "bytes": whole(0),
    **{name: number(0, 1e9) for name in ("ratio_to_first", "ratio_low", "ratio_high")},
}
# What later stages and the verdict read of each stage.
_FACTS: Mapping[str, Mapping[str, Field]] = {
    "dense": {"map": number(0, 1), "ms": number(0, 1e9, above=True), "file": text()},
    "cut": {
        "goal": number(0, 1e9, above=True).or_missing(),
        "goal_ms": number(0, 1e9, above=True).or_missing(),  # of older runs
    },
    "tune": {},
    "score": {"map": number(0, 1)},
    "export": {"file": text()},
    "quantize": {"file": text().or_missing()},
    "bench": {
        "rows": listed(mapping(_ROW), low=1),
        "ratios": named(mapping(_RATIO)).or_missing(),
    },
}
_STAGES = {name: mapping(facts).or_missing() for name, facts in _FACTS.items()}
