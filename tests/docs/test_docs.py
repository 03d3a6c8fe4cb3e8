"""What the documents say can be typed, followed and found; what they show was measured."""

from __future__ import annotations

import inspect
import json
import re
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny

import prune
from prune import cli
from prune.cli import parser as parsers
from prune.core import verify

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "setup.cfg").is_file())
DOCS = ROOT / "docs"
NOTES = DOCS / "laboratory.md"  # each section in the words of its day
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
GENERATED = "cli.md"
# Words of an older idiom, and what is written instead.
OLD = {
    r"pictures?": "image",
    r"multiply-adds?": "MACs",
    r"prove[sd]?|proofs?": "verify, verification",
    r"learned numbers": "parameters",
    r"make(s|d)? good|made good": "recover",
    r"imitat\w+|taught": "distillation",
    r"evidence": "statistics",
    r"the clock": "measuring",
    r"wish(ed|es)?": "requested",
    r"stays? whole": "protected",
}


@cache
def tool(name: str) -> dict[str, Any]:
    """Return what a script in tools/ defines."""
    return runpy.run_path(str(ROOT / "tools" / f"{name}.py"))


def commands(page: Path) -> list[str]:
    """Return the lines of code blocks that begin with prune; continued lines are joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("prune ")]


def prose(page: Path) -> str:
    """Return a page without its code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`]*`", "", text)


def slugs(text: str) -> set[str]:
    """Return the anchors of the headings of a page, as both GitHub and mkdocs make them."""
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()).strip() for title in titles)
    return {re.sub(r"[ ]", "-", title) for title in plain}


def links(page: Path) -> Iterator[str]:
    """Yield where the links and images of a page lead inside the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in target:
            yield target


def text_of(page: Path) -> str:
    """Read a page, generated ones included."""
    if page == DOCS / GENERATED:
        return str(tool("cli_reference")["reference"]())
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_can_be_read(page: Path) -> None:
    """With placeholders such as $T left out, which are options of their own."""
    for line in commands(page):
        name, *words = shlex.split(line, comments=True)[1:]
        words = [word for word in words if not word.startswith("$")]
        if name not in ("help", "--help", "--version"):
            cli.read(name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() or file.name == GENERATED, target
        assert not anchor or anchor in slugs(text_of(file)), target


@pytest.mark.parametrize("page", [p for p in PAGES if p != NOTES], ids=lambda page: page.stem)
def test_pages_are_written_in_plain_words(page: Path) -> None:
    for pattern, better in OLD.items():
        found = re.search(rf"\b({pattern})\b", prose(page), re.IGNORECASE)
        assert not found, f"{page.name}: {found[0]}; write {better}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lines_of_prose_fit(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for line in text.splitlines():
        assert len(line) <= 100 or line.startswith("|") or "](" in line, line


def test_readme_is_short_and_begins_with_what_it_is() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    first = "\n".join(lines[:30])
    assert "```sh\nprune auto" in first and "![" in first and "\n|" in first


def test_steps_recover_what_they_prune_and_name_their_runs() -> None:
    text = "\n".join(commands(ROOT / "README.md"))
    assert "--macs 0.5 --data data/mine.yaml --reconstruct" in text
    assert "--teacher whole_model.pt" in text and "--name tuned" in text
    assert text.count("runs/train/tuned/weights/best.pt") == 2 and "runs/train/exp" not in text


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_figures_of_a_summary_stand_in_the_notes(page: str) -> None:
    known = NOTES.read_text(encoding="utf-8")
    shown = re.findall(r"(?<![\d.])0\.\d{3}(?!\d)", prose(ROOT / page))
    assert len(shown) > 5
    assert not [number for number in shown if number not in known]


def test_drawn_figures_are_those_of_the_notes() -> None:
    drawing, notes = tool("draw_results"), NOTES.read_text(encoding="utf-8")
    over_macs, over_time = drawing["macs_points"](notes), drawing["latency_points"](notes)
    assert [(p.cost, p.map) for p in over_macs if p.series.startswith("unpruned")] == [(654, 0.505)]
    assert len(over_macs) == 7 and len({point.series for point in over_time}) == 5
    assert (1.74, 0.545) in [(point.cost, point.map) for point in over_time]


def test_reference_has_every_command_and_option() -> None:
    text = text_of(DOCS / GENERATED)
    for name, summary in cli.COMMANDS.items():
        parser = parsers.build(name, summary, cli.module(name))
        assert f"\n## prune {name}\n" in text
        for action in parsers.actions(parser):
            for option in action.option_strings:
                assert f"`{option}" in text or option in ("-h", "--help"), option
    assert "%(default)" not in text


def test_method_page_has_every_way_to_choose_and_the_tolerance_of_the_code() -> None:
    text = text_of(DOCS / "method.md")
    for command, option in (
        ("global", "criterion"),
        ("global", "allocation"),
        ("depth", "criterion"),
    ):
        parser = parsers.build(command, "", cli.module(command))
        (ways,) = (each.choices for each in parsers.actions(parser) if each.dest == option)
        assert ways and all(f"| `{way}`" in text for way in ways)
    absolute = inspect.signature(prune.verify).parameters["tolerance"].default
    rows = re.findall(r"\| at most (\S+) \| at most (\S+) \|", text)
    assert rows == [_rounded(absolute), _rounded(verify.RELATIVE)]


def _rounded(tolerance: float) -> tuple[str, str]:
    """Write a tolerance, and the one of float64, a thousand times smaller, as the page does."""
    first, second = (f"{value:.0e}".replace("e-0", "e-") for value in (tolerance, tolerance / 1000))
    return first, second


def test_every_public_name_of_the_api_page_exists() -> None:
    names = re.findall(r"^::: prune\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.M)
    assert names and all(hasattr(prune, name) for name in names)
    assert set(names) <= set(tool("cli_reference")["public_names"]())


def test_pages_that_do_not_exist_yet_are_left_out_of_the_navigation() -> None:
    nav = [{"Home": "index.md"}, {"Reference": [{"A": "cli.md"}, {"B": "nowhere.md"}]}]
    config = {"docs_dir": str(DOCS), "nav": nav}
    kept = tool("cli_reference")["on_config"](config)["nav"]
    assert kept == [{"Home": "index.md"}, {"Reference": [{"A": "cli.md"}]}]


def test_short_commands_run_and_print_what_the_json_page_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tiny.cfg(tmp_path)
    described = {
        key
        for code in re.findall(r"`([^`]+)`", text_of(DOCS / "json.md"))
        for key in re.findall(r"\w+", code)
    }
    for line in (
        "data shapes --out d.yaml --images 16 --size 64 --split 0.5,0.25,0.25",
        "data check d.yaml",
        "whole --cfg tiny32.cfg --random --data d.yaml --img-size 64 --out w.pt",
        "show w.pt",
        "conv --weights w.pt --layer 1 --amount 0.5 --out c.pt --plan-out plan.json",
        "apply --weights w.pt --plan plan.json --out a.pt",
        "depth --weights w.pt --blocks 1 --out b.pt",
        "global --weights w.pt --macs 0.5 --compensate --out g.pt",
        "diff w.pt c.pt",
        "val --weights w.pt --data d.yaml --no-plots",
        "export --weights w.pt --out w.onnx",
        "quantize --weights w.onnx --data d.yaml --images 8 --threads 1",
        "train --weights w.pt --data d.yaml --epochs 1 --workers 0 --no-plots",
        "bench w.onnx --runtime onnxruntime --rounds 2 --threads 1",
        "detect --weights w.onnx --source d/images/val --conf-thres 0.0001 --nosave",
        "sensitivity --weights w.pt --data d.yaml --images 1 --ratios 0.5 --out s.json",
        "doctor",
    ):
        capsys.readouterr()
        assert cli.main([*shlex.split(line), "--json"]) == 0, line
        document = json.loads(capsys.readouterr().out)
        assert not set(keys(document)) - described, line
    assert not set(keys(json.loads((tmp_path / "plan.json").read_bytes()))) - described


def keys(value: object) -> Iterator[str]:
    """Yield the keys of a document, and those of the first object in each of its lists."""
    if isinstance(value, list):
        yield from keys(value[0] if value else None)
    elif isinstance(value, dict):
        yield from value
        yield from (key for each in value.values() if isinstance(each, list) for key in keys(each))


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    "index", ["", "https://download.pytorch.org/whl/cpu"], ids=["usual", "CPU"]
)
def test_make_demo_takes_an_index_for_torch(index: str) -> None:
    words = ["make", "--dry-run", "--always-make", "demo", f"TORCH_INDEX={index}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if "--editable" in line)
    assert ("--extra-index-url" in line, index in line) == (bool(index), True)


def test_the_image_of_the_folders_is_of_this_code() -> None:
    drawn = runpy.run_path(str(ROOT / "tools" / "draw_architecture.py"))["draw"]()
    assert (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8") == drawn
