"""Data sets of two classes as public tools write them, small: where things lie and what they say.

Each has a red and a blue square in two train and two val images, unless it says otherwise. What
the builders return is given to --data, from the working folder `start`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from datasets import draw_image

ROWS = "0 0.25 0.5 0.3 0.4\n1 0.75 0.5 0.3 0.4\n"
NAMES = ("red", "blue")
STEMS = {"train": ("a", "b"), "val": ("c", "d")}


class Built(NamedTuple):
    """A data set: what --data names, and the working folder in which it is meant to be used."""

    data: Path
    start: Path


def _images(
    folder: Path,
    images: str,
    labels: str,
    splits: dict[str, str] | None = None,
    suffix: str = ".jpg",
) -> list[Path]:
    """Write images and labels; `{}` in the folders stands for the split's name."""
    written = []
    for number, (split, stems) in enumerate(STEMS.items()):
        called = (splits or {}).get(split, split)
        for stem in stems:
            image = folder / images.format(called) / f"{stem}{suffix}"
            written.append(draw_image(image, seed=number * 10 + ord(stem)))
            _text(folder / labels.format(called) / f"{stem}.txt", ROWS)
    return written


def _text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def ultralytics(root: Path) -> Built:
    """Ultralytics' coco8.yaml: path: is found in a folder datasets beside the working folder."""
    _images(root / "datasets" / "mine", "images/{}", "labels/{}")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(NAMES))
    text = f"path: mine\ntrain: images/train\nval: images/val\ntest:\nnames:\n{names}download: no\n"
    return Built(_text(root / "work" / "cfg" / "mine.yaml", text), root / "work")


def yolov5(root: Path) -> Built:
    """YOLOv5's coco128.yaml: path: relative to the repository, in which commands run."""
    _images(root / "datasets" / "mine", "images/{}", "labels/{}")
    text = "path: ../datasets/mine\ntrain: images/train\nval: images/val\nnames: ['red', 'blue']\n"
    return Built(_text(root / "yolov5" / "data" / "mine.yaml", text), root / "yolov5")


def yolov7(root: Path) -> Built:
    """YOLOv7's coco.yaml: lists relative to the repository, their lines relative to the list."""
    for split in STEMS:
        lines = "".join(f"./images/{split}/{stem}.jpg\n" for stem in STEMS[split])
        _text(root / "yolov7" / "mine" / f"{split}.txt", lines)
    _images(root / "yolov7" / "mine", "images/{}", "labels/{}")
    text = "train: ./mine/train.txt\nval: ./mine/val.txt\nnc: 2\nnames: [ 'red', 'blue' ]\n"
    return Built(_text(root / "yolov7" / "data" / "mine.yaml", text), root / "yolov7")


def yolor(root: Path) -> Built:
    """YOLOR and Scaled-YOLOv4: a folder beside the repository, and lists in it."""
    for split in STEMS:
        lines = "".join(f"./images/{split}2017/{stem}.jpg\n" for stem in STEMS[split])
        _text(root / "coco" / f"{split}2017.txt", lines)
    _images(root / "coco", "images/{}2017", "labels/{}2017")
    text = (
        "train: ../coco/train2017.txt\nval: ../coco/val2017.txt\ntest: ../coco/test-dev2017.txt\n"
    )
    text += "nc: 2\nnames: ['red', 'blue']\n"
    return Built(_text(root / "yolor" / "data" / "coco.yaml", text), root / "yolor")


def roboflow(root: Path) -> Built:
    """Roboflow's zip: ../train/images for train/images beside the yaml; no test split."""
    _images(root, "{}/images", "{}/labels", {"val": "valid"})
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
    text += "names: ['red', 'blue']\n\nroboflow:\n  workspace: mine\n  version: 1\n"
    return Built(_text(root / "data.yaml", text), root)


def roboflow_package(root: Path) -> Built:
    """Roboflow's Python package: paths begin with the folder it downloaded to, on that machine."""
    _images(root / "mine-1", "{}/images", "{}/labels", {"val": "valid"})
    text = "names:\n- red\n- blue\nnc: 2\ntrain: mine-1/train/images\nval: mine-1/valid/images\n"
    return Built(_text(root / "mine-1" / "data.yaml", text), root / "mine-1")


def colab(root: Path) -> Built:
    """A yaml that was written on another machine: its absolute folder does not exist here."""
    _images(root, "{}/images", "{}/labels", {"val": "valid"})
    text = "train: /content/mine-1/train/images\nval: /content/mine-1/valid/images\n"
    return Built(_text(root / "data.yaml", f"{text}names: red, blue\n"), root)


def windows(root: Path) -> Built:
    """A yaml of a Windows machine: backslashes and a drive."""
    _images(root, "images/{}", "labels/{}")
    text = "path: 'D:\\data\\mine'\ntrain: images\\train\nval: images\\val\n"
    text += "names: {'0': red, '1': blue}\n"
    return Built(_text(root / "data.yaml", text), root)


def roboflow_darknet(root: Path) -> Built:
    """Roboflow's Darknet zip: labels beside the images, the classes in each folder, no yaml."""
    _images(root, "{}", "{}", {"val": "valid"})
    for split in ("train", "valid"):
        _text(root / split / "_darknet.labels", "red\nblue\n")
    return Built(root, root)


def darknet(root: Path) -> Built:
    """AlexeyAB's Darknet: obj.data, lists relative to the folder in which darknet runs."""
    start = root / "darknet"
    _images(start / "data", "{}_obj", "{}_obj")
    for split in STEMS:
        lines = "".join(f"data/{split}_obj/{stem}.jpg\n" for stem in STEMS[split])
        _text(start / "data" / f"{split}.txt", lines)
    _text(start / "data" / "obj.names", "red\nblue\n")
    text = "classes = 2\ntrain  = data/train.txt\nvalid  = data/val.txt\nnames = data/obj.names\n"
    return Built(_text(start / "data" / "obj.data", f"{text}backup = backup/\n"), start)


def cvat_yolo(root: Path) -> Built:
    """CVAT's and datumaro's YOLO 1.1: a leading data/ that is not in the archive."""
    _images(root, "obj_{}_data", "obj_{}_data", {"val": "valid"})
    for split, called in (("train", "train"), ("val", "valid")):
        lines = "".join(f"data/obj_{called}_data/{stem}.jpg\n" for stem in STEMS[split])
        _text(root / f"{called}.txt", lines)
    _text(root / "obj.names", "red\nblue\n")
    text = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
    return Built(_text(root / "obj.data", f"{text}backup = backup/\n"), root)


def cvat_ultralytics(root: Path) -> Built:
    """CVAT's Ultralytics YOLO: lists beside the yaml, the subset's name as it was typed."""
    _images(root, "images/{}", "labels/{}", {"train": "Train", "val": "Validation"})
    for split, called in (("train", "Train"), ("val", "Validation")):
        lines = "".join(f"data/images/{called}/{stem}.jpg\n" for stem in STEMS[split])
        _text(root / f"{called}.txt", lines)
    text = "Train: Train.txt\nValidation: Validation.txt\nnames:\n  0: red\n  1: blue\npath: .\n"
    return Built(_text(root / "data.yaml", text), root)


def datumaro_ultralytics(root: Path) -> Built:
    """Datumaro's yolo_ultralytics: lists of paths relative to the yaml."""
    _images(root, "images/{}", "labels/{}")
    for split in STEMS:
        lines = "".join(f"images/{split}/{stem}.jpg\n" for stem in STEMS[split])
        _text(root / f"{split}.txt", lines)
    text = "train: train.txt\nval: val.txt\nnames:\n  0: red\n  1: blue\n"
    return Built(_text(root / "data.yaml", text), root)


def label_studio(root: Path) -> Built:
    """Label Studio's YOLO with images: no yaml and no splits, so that 1 of 4 goes to val."""
    for number, stem in enumerate("abcd"):
        draw_image(root / "images" / f"{stem}.jpg", seed=number)
        _text(root / "labels" / f"{stem}.txt", ROWS)
    _text(root / "classes.txt", "red\nblue\n")
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    _text(root / "notes.json", json.dumps({"categories": categories, "info": {"year": 2024}}))
    return Built(root, root)


def label_img(root: Path) -> Built:
    """labelImg: classes.txt among the label files beside the images, folders for the splits."""
    _images(root, "images/{}", "images/{}")
    _text(root / "images" / "train" / "classes.txt", "red\nblue\n")
    text = "train: images/train\nvalid: images/val\nnames: images/train/classes.txt\n"
    return Built(_text(root / "data.yaml", text), root)


def voc_label(root: Path) -> Built:
    """Darknet's voc_label.py: labels/ beside JPEGImages/, lists of absolute paths."""
    images = _images(root / "VOC2007", "JPEGImages", "labels")
    for split, stems in STEMS.items():
        lines = "".join(f"{image}\n" for image in images if image.stem in stems)
        _text(root / f"2007_{split}.txt", lines)
    _text(root / "voc.names", "red\nblue\n")
    text = "classes= 2\ntrain  = 2007_train.txt\nvalid  = 2007_val.txt\nnames = voc.names\n"
    return Built(_text(root / "voc.data", text), root)


def numbers_alone(root: Path) -> Built:
    """A yaml with nc: and no names, its validation split under another name."""
    _images(root, "images/{}", "labels/{}")
    text = "train: images/train\nvalidation: images/val\nnc: 2\n"
    return Built(_text(root / "data.yaml", text), root)


LAYOUTS: dict[str, Callable[[Path], Built]] = {
    "ultralytics": ultralytics,
    "yolov5": yolov5,
    "yolov7": yolov7,
    "yolor": yolor,
    "roboflow": roboflow,
    "roboflow package": roboflow_package,
    "roboflow darknet": roboflow_darknet,
    "colab": colab,
    "windows": windows,
    "darknet": darknet,
    "cvat yolo": cvat_yolo,
    "cvat ultralytics": cvat_ultralytics,
    "datumaro ultralytics": datumaro_ultralytics,
    "label studio": label_studio,
    "labelImg": label_img,
    "voc_label.py": voc_label,
    "numbers alone": numbers_alone,
}
