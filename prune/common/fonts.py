"""Class names in any script: which font on this machine has the letters, and what is drawn if none.

matplotlib brings DejaVu Sans (Latin, Cyrillic, Greek and more). Chinese, Japanese, Korean, Thai and
others need a font of the system; where that lacks the letters, too, a class's number is drawn.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from prune.common.notes import note
from prune.common.visible import visible
from prune.common.wording import few

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_TRIED_SIZE = 12  # pixels; bitmap fonts (emoji) come in their own sizes only, and are of no use


@dataclass(frozen=True)
class Label:
    """What is drawn for a text, and the font file that has its letters."""

    text: str
    font: Path


@lru_cache(maxsize=16)
def labels(names: tuple[str, ...]) -> tuple[Label, ...]:
    """Find what to draw for each class; said once, where it is a number instead of the name."""
    found = tuple(_label(name, number) for number, name in enumerate(names))
    plain = [_drawable(name) for name in names]
    missing = [name for name, label in zip(plain, found, strict=True) if label.text != name]
    if missing:
        note(
            f"no font of this machine has the letters of {len(missing)} of {len(names)} "
            f"class names ({few(missing, 3)}); images and plots show their numbers "
            "instead. Install a font that has them, e.g. Noto Sans"
        )
    return found


@lru_cache(maxsize=64)
def truetype(font: Path, size: int) -> FreeTypeFont:
    """Open a font at a size in pixels, for Pillow."""
    from PIL import ImageFont

    return ImageFont.truetype(str(font), size)


@contextmanager
def plotting(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield what figures that are made and written in this block shall call each class.

    matplotlib takes a letter from the first of its fonts that has it, and reads $...$ as a formula
    unless told not to.
    """
    import matplotlib as mpl
    from matplotlib import font_manager

    found = labels(tuple(names))
    families = [mpl.rcParams["font.family"][0]]
    for font in dict.fromkeys(label.font for label in found):
        if font != dejavu():
            font_manager.fontManager.addfont(str(font))
            families.append(font_manager.FontProperties(fname=str(font)).get_name())
    with mpl.rc_context({"font.family": families, "text.parse_math": False}):
        yield tuple(label.text for label in found)


@lru_cache(maxsize=1)
def dejavu() -> Path:
    """Return the font that comes with matplotlib, without importing it."""
    package = importlib.util.find_spec("matplotlib")
    assert package is not None and package.origin is not None  # setup.cfg requires it
    return Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"


@lru_cache(maxsize=1)
def system_fonts() -> Sequence[Path]:
    """List the system's font files: upright and regular ones first."""
    from matplotlib import font_manager

    def plainness(path: Path) -> tuple[bool, bool, str]:
        name = path.stem.lower()
        slanted = any(word in name for word in ("italic", "oblique"))
        return slanted, "bold" in name or "black" in name, str(path)

    return sorted(map(Path, font_manager.findSystemFonts()), key=plainness)


def _label(name: str, number: int) -> Label:
    text = _drawable(name)
    if text.isascii():
        return Label(text, dejavu())
    font = _font_for(frozenset(letter for letter in text if not _invisible(letter)))
    return Label(text, font) if font else Label(str(number), dejavu())


def _drawable(name: str) -> str:
    """Compose letters and accents; no font has what `visible` writes as escapes."""
    return visible(unicodedata.normalize("NFC", name))


def _invisible(letter: str) -> bool:
    return letter.isspace() or unicodedata.category(letter) == "Cf"  # joiners, marks of direction


def _font_for(letters: frozenset[str]) -> Path | None:
    """Return the first font that has all letters."""
    if _has(dejavu(), letters):
        return dejavu()
    return next((font for font in system_fonts() if _has(font, letters)), None)


def _has(font: Path, letters: frozenset[str]) -> bool:
    return {ord(letter) for letter in letters} <= _known(font)


@cache
def _known(font: Path) -> frozenset[int]:
    """Return the letters that a font has; none if Pillow or matplotlib cannot use it."""
    from matplotlib.ft2font import FT2Font

    try:
        truetype(font, _TRIED_SIZE)
        return frozenset(FT2Font(str(font)).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()
