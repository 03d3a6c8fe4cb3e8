"""Read one Pascal VOC XML file, safely and with line numbers."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from xml.sax import SAXException, SAXParseException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl, Locator

from defusedxml import DefusedXmlException
from defusedxml.sax import parse as parse_safely

from prune.data.annotation import Annotation, Box
from prune.data.problem import Problem

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def parse(
    path: Path, pictures: Mapping[str, Path], *, skip_difficult: bool = False
) -> Annotation | Problem:
    """Read an annotation; a file that is broken, unsafe or something else is a fatal problem.

    The picture is the one with the XML's own stem, as VOC's lists have it, else the one that
    <filename> names: people rename files, and seldom the entry in them.

    Args:
        path: the XML file.
        pictures: picture files, each under its name and under its stem.
        skip_difficult: leave out boxes marked difficult.
    """
    try:
        root = _tree(path)
        if root.tag != "annotation":
            raise _BrokenError(f"the root is <{root.tag}>, not <annotation>", root)
        nodes = [node for node in root.findall("object") if not (skip_difficult and _hard(node))]
        boxes = tuple(_box(node) for node in nodes)
    except _BrokenError as error:
        return Problem("broken XML", path, error.line, str(error), fatal=True)
    claimed = (root.findtext("filename") or "").strip()
    image = pictures.get(path.stem) or pictures.get(claimed) or Path(claimed or path.stem)
    return Annotation(path, image, path.stem + image.suffix, boxes, _size(root))


class _BrokenError(Exception):
    """What makes an XML file useless, and where."""

    def __init__(self, message: str, where: ET.Element | int | None) -> None:
        super().__init__(message)
        self.line = _line(where) if isinstance(where, ET.Element) else where


class _Builder(ContentHandler):
    """Build a tree whose elements know their line (ElementTree's own parsers do not tell)."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = ET.TreeBuilder()
        self.locator: Locator | None = None

    def setDocumentLocator(self, locator: Locator) -> None:  # noqa: N802 - SAX names it
        self.locator = locator

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802 - SAX names it
        line = self.locator.getLineNumber() if self.locator else 0
        self.tree.start(name, {"line": str(line or 0)})

    def endElement(self, name: str) -> None:  # noqa: N802 - SAX names it
        self.tree.end(name)

    def characters(self, content: str) -> None:
        self.tree.data(content)


def _tree(path: Path) -> ET.Element:
    builder = _Builder()
    try:
        with path.open("rb") as handle:
            parse_safely(handle, builder)
    except SAXParseException as error:
        raise _BrokenError(error.getMessage(), error.getLineNumber()) from error
    except DefusedXmlException as error:
        raise _BrokenError(f"refused as unsafe: {type(error).__name__}", None) from error
    except (OSError, SAXException, ValueError) as error:
        raise _BrokenError(str(error), None) from error
    return builder.tree.close()


def _box(node: ET.Element) -> Box:
    """Read an <object>; one that is a point or inside out keeps its corners, so that it is seen."""
    name = (node.findtext("name") or "").strip()
    if not name:
        raise _BrokenError("an object has no <name>", node)
    corners = node.find("bndbox")
    if corners is None:
        raise _BrokenError(f"{name} has no <bndbox>", node)
    left, top, right, bottom = (_number(corners, key) for key in _CORNERS)
    if right <= left or bottom <= top:
        return Box(name, (left, top, right, bottom), _line(corners))
    return Box(name, (left - 1, top - 1, right, bottom), _line(corners))


def _number(node: ET.Element, key: str) -> float:
    text = node.findtext(key)
    if text is None:
        raise _BrokenError(f"<{node.tag}> has no <{key}>", node)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _BrokenError(f"<{key}> is {text.strip()!r}, no number", node.find(key))
    return value


def _size(root: ET.Element) -> tuple[int, int] | None:
    """Read width and height; what is no positive number counts as missing, the picture knows."""
    size = root.find("size")
    if size is None:
        return None
    try:
        width, height = int(_number(size, "width")), int(_number(size, "height"))
    except _BrokenError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _hard(node: ET.Element) -> bool:
    return (node.findtext("difficult") or "").strip() == "1"


def _line(node: ET.Element) -> int | None:
    return int(node.get("line", "0")) or None
