"""Tiny data sets to write to disk, each with why it exists."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

SIZE = (40, 30)  # width and height: different, so that mixing them up shows

Corners = tuple[float, float, float, float]


def draw_image(path: Path, *, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """Write a image of noise; another seed gives another file content."""
    width, height = size
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, noise)[1].tobytes())
    return path


def xml(
    objects: Sequence[tuple[str, Corners]], *, size: tuple[int, int] | None = SIZE, more: str = ""
) -> str:
    """Write a VOC annotation, one object a line; the first is in line 3."""
    width, height = size or (0, 0)
    rows = "".join(
        f"<object><name>{name}</name>{more}<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>\n"
        for name, (x0, y0, x1, y1) in objects
    )
    sizes = f"<size><width>{width}</width><height>{height}</height></size>" if size else ""
    return f"<annotation>\n{sizes}\n{rows}</annotation>\n"


def voc(folder: Path, files: Mapping[str, str], **lists: str) -> Path:
    """Write a VOC folder: XML text by stem, a image for each, split lists as keywords."""
    for i, (stem, text) in enumerate(files.items()):
        draw_image(folder / "JPEGImages" / f"{stem}.png", seed=i)
        path = folder / "Annotations" / f"{stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, text in lists.items():
        path = folder / "ImageSets" / "Main" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def coco(
    path: Path,
    images: Sequence[str],
    annotations: Sequence[Mapping[str, object]],
    categories: Mapping[int, str],
) -> Path:
    """Write a COCO file; image ids are 10, 11, ..., annotation ids 100, 101, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = SIZE
    document = {
        "images": [
            {"id": 10 + i, "file_name": name, "width": width, "height": height}
            for i, name in enumerate(images)
        ],
        "annotations": [{"id": 100 + i, **entry} for i, entry in enumerate(annotations)],
        "categories": [{"id": key, "name": name} for key, name in categories.items()],
    }
    path.write_text(json.dumps(document))
    return path


def yolo(folder: Path, labels: Mapping[str, str], *, names: Sequence[str] = ("a", "b")) -> Path:
    """Write a data.yaml with label text by "split/stem"; each gets a image of its own."""
    splits = dict.fromkeys(key.split("/")[0] for key in labels)
    for i, (key, text) in enumerate(labels.items()):
        draw_image(folder / "images" / f"{key}.png", seed=i)
        path = folder / "labels" / f"{key}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    rows = "".join(f"{split}: images/{split}\n" for split in splits)
    (folder / "data.yaml").write_text(f"{rows}names: [{', '.join(names)}]\n")
    return folder / "data.yaml"


def snapshot(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder, to show that a command left it as it was."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
