"""Read one Pascal VOC XML file, safely and with line numbers."""

import io
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from xml.sax import SAXParseException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl, Locator

from defusedxml import DefusedXmlException
from defusedxml.sax import parse as parse_safely

from prune.common.digits import real
from prune.common.inputs import read_bytes, reason, shown
from prune.data.annotation import Box
from prune.data.convert import BROKEN_XML
from prune.data.problem import Problem
from prune.errors import PruneError

_DECLARED = re.compile(rb"""<\?xml[^>]*?\sencoding=["']([A-Za-z0-9._-]+)["']""")
_MULTI_BYTE = ("gb", "big5", "shift", "sjis", "euc", "iso-2022", "hz", "cp9", "ks_c", "windows-31")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Document:
    """The content of an XML file: the image's name, its boxes and its size in pixels, if any."""

    named: str
    boxes: tuple[Box, ...]
    size: tuple[int, int] | None


def parse(path: Path) -> Document | Problem:
    """Read an annotation; a file that is broken, unsafe or something else is a problem."""
    try:
        root = _tree(path)
        if root.tag != "annotation":
            cvat = "; this is CVAT's own format" if root.tag == "annotations" else ""
            raise _BrokenError(f"the root is <{root.tag}>, not <annotation>{cvat}", root)
        boxes = tuple(_box(node) for node in root.findall("object"))
    except _BrokenError as error:
        return Problem(BROKEN_XML, path, error.line, str(error))
    return Document((root.findtext("filename") or "").strip(), boxes, _size(root))


class _BrokenError(Exception):
    """What makes an XML file useless, and where."""

    def __init__(self, message: str, where: ET.Element | int | None) -> None:
        super().__init__(message)
        self.line = _line(where) if isinstance(where, ET.Element) else where


class _Builder(ContentHandler):
    """Build a tree whose elements know their line (ElementTree's own parsers do not keep it)."""

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
        parse_safely(_source(read_bytes(path, "xml")), builder)
    except SAXParseException as error:
        raise _BrokenError(error.getMessage(), error.getLineNumber()) from error
    except DefusedXmlException as error:
        raise _BrokenError(f"refused as unsafe: {type(error).__name__}", None) from error
    except PruneError as error:
        raise _BrokenError(str(error).removeprefix(f"cannot read {path}: "), None) from error
    except Exception as error:  # whatever a broken file makes the parser raise
        raise _BrokenError(reason(error), None) from error
    return builder.tree.close()


def _source(content: bytes) -> io.BytesIO | io.StringIO:
    """Decode what declares an encoding of several bytes per letter: expat knows none of them.

    Raises:
        LookupError: the encoding that the content declares is unknown.
        ValueError: the content is not in it.
    """
    declared = _DECLARED.match(content)
    name = declared.group(1).decode("ascii") if declared else ""
    if name.lower().startswith(_MULTI_BYTE):
        # Files that declare gb2312 hold letters that only its successors have.
        known = "gb18030" if name.lower().startswith("gb") else name
        return io.StringIO(content.decode(known))
    return io.BytesIO(content)


def _box(node: ET.Element) -> Box:
    """Read an <object>; one that is a point or inside out keeps its corners, so that it is seen."""
    name = (node.findtext("name") or "").strip()
    if not name:
        raise _BrokenError("an object has no <name>", node)
    corners = node.find("bndbox")
    if corners is None:
        raise _BrokenError(f"{name} has no <bndbox>", node)
    left, top, right, bottom = (_number(corners, key) for key in _CORNERS)
    mark = "difficult" if _is_difficult(node) else ""
    if right <= left or bottom <= top:
        return Box(name, (left, top, right, bottom), _line(corners), mark=mark)
    return Box(name, (left - 1, top - 1, right, bottom), _line(corners), mark=mark)


def _number(node: ET.Element, key: str) -> float:
    text = node.findtext(key)
    if text is None:
        raise _BrokenError(f"<{node.tag}> has no <{key}>", node)
    try:
        value = real(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _BrokenError(f"<{key}> is {shown(text.strip())}, not a number", node.find(key))
    return value


def _size(root: ET.Element) -> tuple[int, int] | None:
    """Read width and height; what is not a positive number counts as missing."""
    size = root.find("size")
    if size is None:
        return None
    try:
        width, height = int(_number(size, "width")), int(_number(size, "height"))
    except _BrokenError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _is_difficult(node: ET.Element) -> bool:
    return (node.findtext("difficult") or "").strip().lower() in ("1", "true", "yes")


def _line(node: ET.Element) -> int | None:
    return int(node.get("line", "0")) or None
