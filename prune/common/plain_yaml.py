"""Read YAML text in which every key of a mapping is given once; what is wrong fits one line."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.common.inputs import read_text, shown
from prune.common.plain_json import DEPTH, DIGITS, BrokenTextError, has_half_characters, locating
from prune.errors import InputError, PruneError

if TYPE_CHECKING:
    import yaml

NODES = 1_000_000  # values of a file, with those that an alias repeats


class BrokenYamlError(BrokenTextError):
    """Text that is not YAML, or YAML that gives a key twice, grows or nests without end."""


def read_yaml(text: str, *, typed: bool = True, file_names: bool = False) -> object:
    """Return what the text describes; without `typed`, every value is the text that is written.

    YAML allows a key once per mapping, and PyYAML silently takes the last one: the other value
    would be lost without a word. Aliases let a short text describe more values than fit into
    memory, and PyYAML's own conversions fail in many ways (0b_, 2020-13-45, !!int x).

    Args:
        text: YAML.
        typed: whether numbers, dates, true and null are converted.
        file_names: see `plain_json.read_json`.

    Raises:
        BrokenYamlError: the text is not YAML, gives a key twice, or has a value that is none.
    """
    import yaml

    place = _Place()
    try:
        loader = _loader(typed)(text, place)
        if (node := loader.get_single_node()) is None:
            return None
        _Check(file_names).count(node, above=())
        found: object = loader.construct_document(node)
        return found
    except BrokenYamlError:
        raise
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        why = error.problem or "it cannot be read"
        hint = "; write Windows paths with / or in single quotes" if "escape" in why else ""
        raise BrokenYamlError(why + hint, line) from error
    except yaml.YAMLError as error:  # a character that YAML does not have
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise BrokenYamlError(" ".join(str(error).split()), line) from error
    # What PyYAML does not turn into errors of its own: characters beyond Unicode while it reads,
    # and texts that are not what their form or their tag says.
    except (ValueError, LookupError, ArithmeticError, AttributeError, TypeError) as error:
        raise BrokenYamlError(place.fault, place.line) from error


def read_yaml_file(
    path: Path,
    *,
    typed: bool = True,
    file_names: bool = False,
    error: type[PruneError] = InputError,
    called: str = "",
) -> object:
    """Return what a YAML file describes; see `read_yaml` and `inputs.open_input`.

    Raises:
        InputError: it cannot be read or is broken, with its line; of the kind that `error` names.
    """
    text = read_text(path, "yaml", error=error, called=called)
    with locating(path, "broken YAML", error):
        return read_yaml(text, typed=typed, file_names=file_names)


class _Place:
    """Where in the text the reader is, and what is wrong if it fails there."""

    line = 1
    fault = "a character that does not exist"


@cache
def _loader(typed: bool) -> Any:
    """Return a loader that knows its place and refuses to go on below DEPTH."""
    import yaml

    base: Any = yaml.SafeLoader if typed else yaml.BaseLoader

    class Loader(base):  # type: ignore[misc]  # PyYAML's loaders are made by multiple inheritance
        def __init__(self, text: str, place: _Place) -> None:
            super().__init__(text)
            self.place = place
            self.depth = 0

        def compose_node(self, parent: object, index: object) -> object:
            self.place.line = self.line + 1
            if self.depth > DEPTH:
                raise BrokenYamlError(f"it is nested more than {DEPTH} levels deep", self.line + 1)
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
            self.place.line = node.start_mark.line + 1
            kind = node.tag.rpartition(":")[2]
            self.place.fault = f"{shown(node.value)} is no valid {kind}; put text in quotes"
            return super().construct_object(node, deep)

    return Loader


class _Check:
    """Looks through the nodes of a text before anything is made of them."""

    def __init__(self, file_names: bool) -> None:
        self.file_names = file_names
        self.sizes: dict[int, int] = {}  # of nodes seen: an alias leads to the same node again

    def count(self, node: yaml.Node, *, above: tuple[int, ...]) -> int:
        """Count the values that a node stands for, aliases spelled out; refuse what is broken."""
        import yaml

        line = node.start_mark.line + 1
        if id(node) in above:
            raise BrokenYamlError("a value contains itself", line)
        if id(node) in self.sizes:
            return self.sizes[id(node)]
        size = 1
        if isinstance(node, yaml.ScalarNode):
            self._expect_usual(node, line)
        else:
            inside = (*above, id(node))
            children = _flat(node) if isinstance(node, yaml.MappingNode) else node.value
            size += sum(self.count(child, above=inside) for child in children)
        if size > NODES:
            raise BrokenYamlError(f"its aliases stand for more than {NODES:,} values", line)
        self.sizes[id(node)] = size
        return size

    def _expect_usual(self, node: yaml.ScalarNode, line: int) -> None:
        if not node.value.isascii() and has_half_characters(node.value, file_names=self.file_names):
            why = f"{shown(node.value)} has half a character (a lone surrogate)"
            raise BrokenYamlError(why, line)
        if len(node.value) > DIGITS and node.tag != "tag:yaml.org,2002:str":
            why = f"a value of {len(node.value)} letters ({node.value[:10]}...) is too long"
            raise BrokenYamlError(why, line)


def _flat(node: yaml.MappingNode) -> list[yaml.Node]:
    """Return keys and values of a mapping in turn; a key may stand in it once."""
    import yaml

    keys: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in keys:
                line = key.start_mark.line + 1
                raise BrokenYamlError(f"{key.value}: is given twice; keep one", line)
            keys.add((key.tag, key.value))
    return [part for pair in node.value for part in pair]
