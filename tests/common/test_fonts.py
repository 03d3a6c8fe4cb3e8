"""Class names in any script, with the fonts that there are and without."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import squares
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from prune.cli import console
from prune.common import fonts
from prune.common.fonts import Label
from prune.evaluate import plots
from prune.export import bundle_detect

CYRILLIC, CHINESE = "кошка", "猫"
BOX = np.array([[20.0, 40, 100, 90, 0.5, 0]], dtype=np.float32)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Ask for fonts anew: a process remembers what it found."""
    fonts.labels.cache_clear()
    yield
    fonts.labels.cache_clear()


def make_font(path: Path, letters: str) -> Path:
    """Write a font in which each letter is a filled square."""
    glyphs = {ord(letter): f"glyph{ord(letter)}" for letter in letters}
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", *glyphs.values()])
    builder.setupCharacterMap(glyphs)
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    builder.setupGlyf(
        {".notdef": TTGlyphPen(None).glyph(), **dict.fromkeys(glyphs.values(), square)}
    )
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *glyphs.values()], (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, sTypoDescender=-200)
    builder.setupPost()
    builder.save(path)
    return path


def no_fonts() -> list[Path]:
    return []


@pytest.mark.parametrize("name", ["cat", CYRILLIC, "γάτα", "Käse", "Ka\u0308se"])
def test_letters_of_dejavu_need_no_other_font(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    console.logger()
    monkeypatch.setattr(fonts, "system_fonts", no_fonts)
    (label,) = fonts.labels((name,))
    assert label == Label(unicodedata.normalize("NFC", name), fonts.dejavu())
    assert not capsys.readouterr().err


def test_font_of_the_system_is_taken_where_it_has_the_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    other, right = make_font(tmp_path / "a.ttf", "犬"), make_font(tmp_path / "b.ttf", CHINESE)
    monkeypatch.setattr(fonts, "system_fonts", lambda: [broken, other, right])
    assert fonts.labels((CHINESE,)) == (Label(CHINESE, right),)


def test_number_stands_for_a_name_that_no_font_has_and_one_note_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console.logger()
    monkeypatch.setattr(fonts, "system_fonts", no_fonts)
    for _ in range(2):
        found = fonts.labels(("cat", CHINESE, CYRILLIC, "犬"))
        assert [label.text for label in found] == ["cat", "1", CYRILLIC, "3"]
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "2 of 4 class names (猫, 犬)" in err


def test_drawn_names_differ_as_their_letters_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """With OpenCV's own letters all of these were "???"."""
    monkeypatch.setattr(fonts, "system_fonts", no_fonts)
    image = squares.draw_image([])
    drawn = [plots.draw(image, BOX, [name]) for name in (CYRILLIC, "кость", "γάτα", "?????")]
    for i, one in enumerate(drawn):
        assert not any(np.array_equal(one, other) for other in drawn[:i])
    number = plots.draw(image, BOX, [CHINESE])
    np.testing.assert_array_equal(number, plots.draw(image, BOX, ["0"]))


@pytest.mark.parametrize("side", [8, 40], ids=["smaller than a letter", "smaller than the name"])
def test_name_is_cut_off_at_the_edge_of_a_small_image(side: int) -> None:
    image = np.zeros((side, side, 3), dtype=np.uint8)
    drawn = plots.draw(image, np.array([[2.0, 2, side - 2, side - 2, 0.5, 0]]), ["long name"])
    assert drawn.shape == image.shape and drawn.any()


def test_plots_take_letters_from_the_font_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A glyph that matplotlib misses would be a warning, and so would a broken formula fail."""
    font = make_font(tmp_path / "b.ttf", CHINESE)
    monkeypatch.setattr(fonts, "system_fonts", lambda: [font])
    names = (CHINESE, CYRILLIC, "$a_{$", "ไทย")
    truth = [np.array([[float(i), 0, 0, 10, 10] for i in range(len(names))])]
    found = [np.array([[0, 0, 10, 10, 0.9, float(i)] for i in range(len(names))])]
    plots.draw_metrics(truth, found, names, tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("name", "shown"), [("cat", "cat"), (CYRILLIC, CYRILLIC), (CHINESE, "5")], ids=str
)
def test_bundle_draws_names_with_the_fonts_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, shown: str
) -> None:
    monkeypatch.setattr(bundle_detect, "FONTS", ("none.ttf", str(fonts.dejavu())))
    text, font = bundle_detect.lettering(name, 5)
    assert text == shown and font.getbbox(text)
    font = make_font(tmp_path / "b.ttf", CHINESE)
    monkeypatch.setattr(bundle_detect, "FONTS", (str(fonts.dejavu()), str(font)))
    assert bundle_detect.lettering(name, 5)[0] == name
