"""What an automatic run has done, a stage an entry, in one file: by it the run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from prune.atomic import write_text
from prune.errors import InputError

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
    """Read a run's file.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(found["format"])
        return Journal(path, dict(found["wish"]), dict(found["stages"]))
    except OSError as error:
        raise InputError(f"no run to go on with: {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
