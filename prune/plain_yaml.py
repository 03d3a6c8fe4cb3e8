"""Read YAML text in which every key of a mapping is given once; what is wrong fits one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import yaml


class BrokenYamlError(ValueError):
    """Text that is not YAML, or YAML that gives a key twice.

    Attributes:
        line: the line where it is wrong, from 1; None where no line is known.
    """

    def __init__(self, why: str, line: int | None) -> None:
        super().__init__(why if line is None else f"line {line}: {why}")
        self.why = why
        self.line = line


def read_yaml(text: str, *, typed: bool = True) -> object:
    """Return what the text describes; without `typed`, every value is the text that is written.

    YAML allows a key once per mapping, and PyYAML silently takes the last one: the other value
    would be lost without a word.

    Raises:
        BrokenYamlError: the text is not YAML, or gives a key twice.
    """
    import yaml

    loader = yaml.SafeLoader if typed else yaml.BaseLoader
    try:
        if (node := yaml.compose(text, Loader=loader)) is None:
            return None
        _expect_single_keys(node, set())
        return loader("").construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise BrokenYamlError(error.problem or "it cannot be read", line) from error
    except yaml.YAMLError as error:
        raise BrokenYamlError(" ".join(str(error).split()), None) from error


def _expect_single_keys(node: yaml.Node, seen: set[int]) -> None:
    """Look through a node and all below it; an anchor leads to the same node again."""
    import yaml

    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    keys: set[tuple[str, str]] = set()
    for item in node.value:
        if not isinstance(item, tuple):
            _expect_single_keys(item, seen)
            continue
        key, value = item
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in keys:
                line = key.start_mark.line + 1
                raise BrokenYamlError(f"{key.value}: is given twice; keep one", line)
            keys.add((key.tag, key.value))
        _expect_single_keys(value, seen)
