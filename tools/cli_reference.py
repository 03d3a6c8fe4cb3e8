"""Write the reference of the command line from its parsers: `python tools/cli_reference.py`.

The documentation site uses this file as a hook of mkdocs (`hooks:` in mkdocs.yml): at each build it
adds the page cli.md, completes api.md by the names that `import prune` offers, and leaves out of
the navigation what is not written yet. No generated text is kept in the repository, so none can be
out of date.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prune
from prune import cli
from prune.cli import parser as parsers

PAGE = "cli.md"
INTRODUCTION = """\
# Command line

This page is generated from the option parsers of the installed version. `prune COMMAND --help`
prints the same for one command.

Results go to stdout, progress and notes to stderr. `--json` prints one JSON document instead of
tables ([keys and units](json.md)). `--config FILE` reads options from a YAML file.

| exit status | meaning |
|--:|---|
| 0 | done |
| 1 | the run failed: a full disk, a lost image, a time that measuring does not confirm |
| 2 | wrong use or wrong input; one line on stderr says what |
| 3 | the run is done, but more mAP was lost than allowed, or the requested latency was missed |
| 130 | stopped by Ctrl-C, SIGTERM or SIGHUP; a training run finishes its step and saves first |
"""


def reference() -> str:
    """Return the page: every command with its arguments and options, as Markdown."""
    commands = [f"| [`prune {name}`](#prune-{name}) | {text} |" for name, text in rows()]
    sections = [section(name, text) for name, text in rows()]
    overview = "\n".join(["| command | purpose |", "|---|---|", *commands])
    return "\n\n".join([INTRODUCTION.rstrip(), overview, *sections]) + "\n"


def rows() -> list[tuple[str, str]]:
    """Return the name of each command with its one line."""
    return list(cli.COMMANDS.items())


def section(name: str, summary: str) -> str:
    """Return the section of a command, with one part for each of its sub-commands."""
    module = cli.module(name)
    parser = parsers.build(name, summary, module)
    parts = [f"## prune {name}", f"{cell(summary)[:1].upper()}{cell(summary)[1:]}."]
    parts += ["```text\n" + inspect.cleandoc("\n" + module.EXAMPLE) + "\n```"]
    below = parsers.subparsers(parser)
    for title, one in below.items():
        parts += [f"### prune {name} {title}", table(one)]
    return "\n\n".join(parts if below else [*parts, table(parser)])


def table(parser: argparse.ArgumentParser) -> str:
    """Return the arguments and options of a parser as a table."""
    lines = ["| argument or option | meaning |", "|---|---|"]
    for action in parser._actions:
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            lines.append(f"| {spelled(action)} | {cell(helped(parser, action))} |")
    return "\n".join(lines)


def spelled(action: argparse.Action) -> str:
    """Return how an argument or option is written, each of its names as code."""
    formatter = argparse.HelpFormatter("prune", width=1000)
    text = formatter._format_action_invocation(action)
    return ", ".join(f"`{cell(part)}`" for part in text.split(", "))


def helped(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return the help of an option with its choices and with its default filled in."""
    formatter = argparse.HelpFormatter(parser.prog, width=1000)
    text = formatter._expand_help(action) if action.help else ""
    named = action.metavar is None and action.choices is not None
    return text if named or not action.choices or "one of" in text else f"{text} {choices(action)}"


def choices(action: argparse.Action) -> str:
    """List the values that an option takes."""
    return f"(one of {', '.join(map(str, action.choices or ()))})"


def cell(text: str) -> str:
    """Make a text fit into one cell of a table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def public_names() -> Iterator[str]:
    """Yield the functions and classes that `import prune` offers, by alphabet."""
    for name in sorted(dir(prune)):
        value = getattr(prune, name)
        offered = inspect.isfunction(value) or inspect.isclass(value)
        if offered and not name.startswith("_") and value.__module__.startswith("prune"):
            yield name


def on_config(config: Any) -> Any:
    """Leave pages out of the navigation that are neither written nor generated."""
    folder = Path(config["docs_dir"])

    def exists(entry: object) -> object:
        if isinstance(entry, dict):
            return {title: kept for title, page in entry.items() if (kept := exists(page))}
        if isinstance(entry, list):
            return [kept for each in entry if (kept := exists(each))]
        return entry if entry == PAGE or (folder / str(entry)).is_file() else None

    config["nav"] = exists(config["nav"])
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the page of the command line."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Complete the page of the Python API by all public names that it does not have yet."""
    if page.file.src_uri != "api.md":
        return markdown
    missing = [name for name in public_names() if f"::: prune.{name}\n" not in f"{markdown}\n"]
    return "\n\n".join([markdown, *(f"::: prune.{name}" for name in missing)])


if __name__ == "__main__":
    print(reference(), end="")
