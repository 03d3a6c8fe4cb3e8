"""Draw the folders of prune/ on their floors, and what imports what: docs/images/architecture.svg.

python tools/draw_architecture.py           # write the image
python tools/draw_architecture.py --check   # exit status 1 where it is not up to date

The floors are those of the import contract in setup.cfg, the lines are imports. A folder imports
from floors below it alone. Lines to common and errors are left out: every folder has them.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
CONTRACT = "importlinter:contract:floors"
WHAT = {
    "cli": "parses, calls one function, prints",
    "detector": "one object for the whole road",
    "auto": "prune, train, export, quantize, compare",
    "report": "tables and pictures",
    "latency": "budgets in measured time",
    "bench": "files side by side",
    "quantize": "INT8",
    "export": "ONNX, Darknet, ncnn, checked",
    "train": "fine-tuning, distillation",
    "pruner": "a checkpoint from cut to recovery",
    "evaluate": "metrics and detection",
    "runtimes": "ONNX Runtime, OpenVINO, ncnn",
    "checkpoint": "our file, public files",
    "models": "Darknet networks, loss",
    "data": "readers, checks, loader",
    "api": "prune any module",
    "core": "trace, select, cut, verify, recover",
    "common": "files, formats, devices",
    "errors": "one tree",
}
USED_BY_ALL = ("common", "errors")
WIDTH, ROW, BOX_W, BOX_H = 1000, 78, 236, 46


def floors() -> list[list[str]]:
    """Read the floors, the highest first: [["cli"], ["auto"], ["latency", "bench"], ...]."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    rows = config[CONTRACT]["layers"].split("\n")
    return [[name.strip().split(".")[1] for name in row.split("|")] for row in rows if row]


def modules(folder: str) -> list[Path]:
    """List the files of a folder of prune/, or the one module of that name."""
    place = ROOT / ("models" if folder == "models" else f"prune/{folder}")
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def imported(path: Path) -> Iterator[str]:
    """Yield the folders of prune/ that a module imports from, once each."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name.split(".")[1] for name in names if name.startswith("prune.")}
    yield from sorted(found)


def lines(rows: list[list[str]]) -> list[tuple[str, str]]:
    """List which folder imports from which other one."""
    known = {folder for row in rows for folder in row}
    found = {
        (folder, other)
        for folder in known
        for path in modules(folder)
        for other in imported(path)
        if other in known and other not in (folder, *USED_BY_ALL)
    }
    return sorted(found)


def draw() -> str:
    """Return the image as SVG text, the same for the same code."""
    rows = floors()
    places = {}
    for number, row in enumerate(rows):
        for place, folder in enumerate(row):
            left = WIDTH * (place + 1) / (len(row) + 1) - BOX_W / 2
            # Floors of one folder stand a little aside in turn, so that lines do not lie on lines.
            left += (-150, 0, 150, 0)[number % 4] if len(row) == 1 else 0
            places[folder] = (left, 20 + number * ROW)
    height = 20 + len(rows) * ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for folder, other in lines(rows):
        (x0, y0), (x1, y1) = places[folder], places[other]
        start, end = x0 + BOX_W / 2, x1 + BOX_W / 2
        bend = (y1 - y0) / 2
        parts.append(
            f'<path d="M{start:.0f} {y0 + BOX_H} C{start:.0f} {y0 + BOX_H + bend:.0f} '
            f'{end:.0f} {y1 - bend:.0f} {end:.0f} {y1}" fill="none" stroke="#4477aa" '
            'stroke-opacity="0.4" stroke-width="1.5"/>'
        )
    for folder, (left, top) in places.items():
        parts += [
            f'<rect x="{left:.0f}" y="{top}" width="{BOX_W}" height="{BOX_H}" rx="6" '
            'fill="#eef3f8" stroke="#4477aa"/>',
            f'<text x="{left + BOX_W / 2:.0f}" y="{top + 19}" text-anchor="middle" '
            f'font-size="15" font-weight="bold">{folder}</text>',
            f'<text x="{left + BOX_W / 2:.0f}" y="{top + 36}" text-anchor="middle" '
            f'font-size="11">{WHAT[folder]}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Write the image, or compare it with the code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    args = parser.parse_args()
    found = draw()
    if not args.check:
        PICTURE.write_text(found, encoding="utf-8")
    elif PICTURE.read_text(encoding="utf-8") != found:
        print("the picture is of older code; run python tools/draw_architecture.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
