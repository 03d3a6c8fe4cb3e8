"""Find the criterion that a user means: by name, in a file, by entry point, or a function itself.

A package offers criteria under the entry-point group "prune.criteria".
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from prune.core.importance.criteria import CRITERIA, Criterion, Function
from prune.errors import PlanError, first_line

CriterionLike = str | Criterion | Function
"""The name of a criterion, "file.py:name", a `Criterion`, or a function of weights."""

GROUP = "prune.criteria"


def find(criterion: CriterionLike) -> tuple[str, Criterion]:
    """Return the name of a criterion, for plans and messages, and the criterion.

    Args:
        criterion: a key of CRITERIA; "file.py:name", a function or a `Criterion` in a Python file,
            whose code is run; the name of an entry point; or the function or `Criterion` itself. A
            plain function computes importance from weights.

    Raises:
        PlanError: there is no such criterion, or its file cannot be run.
    """
    if not isinstance(criterion, str):
        return getattr(criterion, "__name__", "custom"), _as_criterion(criterion, "criterion")
    if criterion in CRITERIA:
        return criterion, CRITERIA[criterion]
    file, colon, name = criterion.rpartition(":")
    if colon and file.endswith(".py"):
        return criterion, _as_criterion(_from_file(Path(file), name), criterion)
    for point in entry_points(group=GROUP, name=criterion):
        return criterion, _as_criterion(_run(point.load, criterion), criterion)
    raise PlanError(
        f"criterion is {criterion!r}; it must be one of {', '.join(CRITERIA)}, or a function in a "
        "file, e.g. my_criteria.py:importance"
    )


def _from_file(path: Path, name: str) -> object:
    spec = importlib.util.spec_from_file_location(f"prune_criteria_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise PlanError(f"cannot read {path}: No such file; name a Python file with the criterion")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    _run(lambda: loader.exec_module(module), str(path))
    if not hasattr(module, name):
        raise PlanError(f"{path} has no {name!r}; define a function of that name")
    found: object = getattr(module, name)
    return found


def _run(load: Callable[[], object], what: str) -> object:
    try:
        return load()
    except Exception as error:  # whatever the user's code raises
        raise PlanError(f"{what} cannot be run: {first_line(error)}") from error


def _as_criterion(found: object, what: str) -> Criterion:
    if isinstance(found, Criterion):
        return found
    if not callable(found):
        raise PlanError(
            f"{what} is a {type(found).__name__}; it must be a function of rows and a generator, "
            "or a Criterion"
        )
    return Criterion(found)
