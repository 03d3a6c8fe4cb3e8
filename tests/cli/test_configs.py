"""A command and the function behind it have the same options with the same defaults."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

import pytest

from prune import bench, data, evaluate, export, quantize
from prune.checkpoint import comparison, summary
from prune.cli import read
from prune.cli.options import config_of

# Command -> its config, the least that it takes, and options that its function does not have.
CONFIGS: dict[str, tuple[type[Any], list[str], set[str]]] = {
    "val": (evaluate.EvaluateConfig, ["--data", "d.yaml"], set()),
    "detect": (evaluate.DetectConfig, ["--source", "s"], {"pd"}),
    "export": (export.ExportConfig, [], set()),
    "whole": (export.WholeConfig, [], set()),
    "quantize": (quantize.QuantizeConfig, ["--weights", "w.onnx", "--data", "d.yaml"], set()),
    "bench": (bench.BenchConfig, ["a.onnx"], set()),
    "show": (summary.ShowConfig, [], {"groups"}),
    "diff": (comparison.DiffConfig, ["a.pt", "b.pt"], set()),
    "data voc": (data.VocConfig, ["d", "--out", "o.yaml"], {"kind", "skip_broken"}),
    "data coco": (data.CocoConfig, ["a.json", "--out", "o.yaml"], {"kind", "skip_broken"}),
    "data shapes": (data.ShapesConfig, [], {"kind"}),
}


@pytest.mark.parametrize("command", CONFIGS)
def test_every_option_is_a_field_with_the_same_default(command: str) -> None:
    kind, words, printing = CONFIGS[command]
    name, *kinds = command.split()
    args = read(name, [*kinds, *words])
    assert vars(args).keys() - printing - {"json", "config"} == {f.name for f in fields(kind)}
    config = config_of(kind, args)
    for field in fields(kind):
        if field.default is not MISSING and field.name not in args.typed:
            value = getattr(config, field.name)
            assert (value, type(value)) == (field.default, type(field.default)), field.name


@pytest.mark.parametrize("command", CONFIGS)
def test_a_config_does_not_change(command: str) -> None:
    kind, words, _ = CONFIGS[command]
    name, *kinds = command.split()
    config = config_of(kind, read(name, [*kinds, *words]))
    with pytest.raises(AttributeError):
        setattr(config, fields(kind)[0].name, None)
    hash(config)


def test_packages_offer_no_name_that_they_lack() -> None:
    for package in (bench, data, evaluate, export, quantize):
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            getattr(package, "nothing")  # noqa: B009  # mypy knows that there is none
