"""Detect objects in an image: python detect.py photo.jpg [--out boxed.jpg].

Needs onnxruntime, numpy and Pillow. Prints one JSON line per box, the most confident first.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont, ImageOps

HERE = Path(__file__).resolve().parent
# Looked for in the system's folders of fonts, until one has all letters of the class names.
FONTS = (
    *("DejaVuSans.ttf", "arial.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "msyh.ttc", "simhei.ttf", "msgothic.ttc", "malgun.ttf"),
    *("NotoSansThai-Regular.ttf", "NotoSansArabic-Regular.ttf", "NotoSansDevanagari-Regular.ttf"),
)


def letterbox(image: Image.Image, how: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Scale and pad an image; also give the scale and the padding, across and down."""
    height, width = how["size"]
    fits = min(width / image.width, height / image.height)
    scaled = [max(1, round(side * fits)) for side in image.size]
    if how["any_size"]:
        width, height = (-(-side // how["stride"]) * how["stride"] for side in scaled)
    corner = ((width - scaled[0]) // 2, (height - scaled[1]) // 2)
    padded = np.full((height, width, 3), how["pad"], np.float32)
    inside = slice(corner[1], corner[1] + scaled[1]), slice(corner[0], corner[0] + scaled[0])
    padded[inside] = resized(np.asarray(image, np.float32), *scaled)
    pixels = padded.transpose(2, 0, 1)[None] * np.float32(how["scale"])
    return pixels, np.array(scaled * 2) / (image.size * 2), np.array(corner * 2)


def resized(pixels: Any, width: int, height: int) -> Any:
    """Resize [h, w, 3] as training does: areas averaged from half the size down, else bilinear."""
    areas = max(pixels.shape[:2]) >= 2 * max(width, height)
    down, across = (
        shares(old, new, areas) for old, new in zip(pixels.shape[:2], (height, width), strict=True)
    )
    rows = np.tensordot(down, pixels, axes=(1, 0))  # [height, w, 3]
    return np.rint(np.tensordot(rows, across, axes=(1, 1)).transpose(0, 2, 1))


def shares(old: int, new: int, areas: bool) -> Any:
    """How much of every old pixel of a line is in every new one, [new, old]; each row sums to 1."""
    step, left = old / new, np.arange(old)
    if areas:
        ends = np.arange(new + 1)[:, None] * step
        inside = np.minimum(ends[1:], left + 1) - np.maximum(ends[:-1], left)
        return (inside.clip(0) / step).astype(np.float32)
    centres = ((np.arange(new) + 0.5) * step - 0.5).clip(0, old - 1)
    return (1 - abs(centres[:, None] - left)).clip(0).astype(np.float32)


def overlap(box: Any, others: Any) -> Any:
    """Intersection over union of a box, [4], with others, [n, 4]."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    overlap = (high - low).clip(0).prod(axis=1)
    area, areas = (box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(axis=1)
    return overlap / (area + areas - overlap).clip(1e-9)


def picked(decoded: Any, confidence: float, iou: float) -> list[tuple[Any, int, float]]:
    """Turn [boxes, 5 + classes] into (corners, class, confidence), suppressing class by class."""
    scores = decoded[:, 5:] * decoded[:, 4:5]
    labels, best = scores.argmax(axis=1), scores.max(axis=1)
    sound = (best > confidence) & np.isfinite(decoded).all(axis=1) & (decoded[:, 2:4] > 0).all(1)
    corners = np.hstack(
        (decoded[:, :2] - decoded[:, 2:4] / 2, decoded[:, :2] + decoded[:, 2:4] / 2)
    )
    left, found = [i for i in np.argsort(-best, kind="stable") if sound[i]], []
    while left:
        first, rest = left[0], np.array(left[1:], dtype=int)
        found.append((corners[first], int(labels[first]), float(best[first])))
        clear = overlap(corners[first], corners[rest]) <= iou
        left = list(rest[clear | (labels[rest] != labels[first])])
    return found


def lettering(name: str, label: int) -> tuple[str, Any]:
    """Return what is drawn for a class, and the font: its number, where no font has its letters."""
    for file in () if name.isascii() else FONTS:
        try:
            font = ImageFont.truetype(file, 14)
        except OSError:
            continue
        # a font draws the same sign for every letter that it lacks, and U+10FFFF is none
        lacking = bytes(font.getmask("\U0010ffff"))
        if all(bytes(font.getmask(letter)) != lacking for letter in name):
            return name, font
    return (name if name.isascii() else str(label)), ImageFont.load_default()


def main() -> None:
    """Detect on one image, print its boxes, draw them if requested."""
    how = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
    names = (HERE / "labels.txt").read_text(encoding="utf-8").splitlines()
    parser = argparse.ArgumentParser(description="Detect objects in an image.")
    parser.add_argument("image", help="an image file")
    parser.add_argument("--out", help="write the image with its boxes to this file")
    parser.add_argument("--conf", type=float, default=how["confidence"], help="lowest confidence")
    parser.add_argument("--iou", type=float, default=how["iou"], help="most overlap in a class")
    args = parser.parse_args()
    try:
        image = ImageOps.exif_transpose(Image.open(args.image)).convert("RGB")
    except (OSError, SyntaxError) as error:
        why = getattr(error, "strerror", None) or "it is no image, or a broken one"
        sys.stderr.write(f"detect.py: cannot read {args.image}: {why}\n")
        sys.exit(2)
    images, scale, corner = letterbox(image, how)
    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    (decoded,) = session.run(["output"], {"images": images})
    draw = ImageDraw.Draw(image)
    for box, label, confidence in picked(decoded[0], args.conf, args.iou)[: how["max_detections"]]:
        limits = np.array(image.size * 2)
        xyxy = ((box - corner) / scale).clip(0, limits).round(2).tolist()
        found = {"xyxy": xyxy, "class": label, "name": names[label]}
        print(json.dumps({**found, "confidence": round(confidence, 5)}))
        draw.rectangle(xyxy, outline="red", width=2)
        text, font = lettering(names[label], label)
        draw.text((xyxy[0] + 3, xyxy[1] + 2), f"{text} {confidence:.2f}", fill="red", font=font)
    if args.out:
        image.save(args.out)


if __name__ == "__main__":
    main()
