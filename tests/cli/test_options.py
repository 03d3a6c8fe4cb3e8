"""Options become a config: each field takes the value of the option of its name."""

import argparse
from dataclasses import dataclass

from prune.cli.options import config_of


@dataclass(frozen=True)
class _Config:
    amount: float = 0.5
    exclude: tuple[str, ...] = ()
    reading: str = "as it is"


def test_fields_take_the_values_of_the_options_of_their_names() -> None:
    args = argparse.Namespace(amount=0.25, exclude=["1", "2"], json=True)
    assert config_of(_Config, args) == _Config(0.25, ("1", "2"))


def test_a_field_without_an_option_is_given_or_keeps_its_default() -> None:
    assert config_of(_Config, argparse.Namespace(), reading="by a cfg") == _Config(
        reading="by a cfg"
    )
