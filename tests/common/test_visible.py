"""Text from strangers is shown, and never acts."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune.common.visible import markdown, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("two\nlines\tand\rmore", r"two\nlines\tand\rmore"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("abc\u202ecba\u2066", r"abc\u202ecba\u2066"),
        ("\udc80\ud83d", r"\udc80\ud83d"),
        ("\u2028\ufeff\U000e0041", r"\u2028\ufeff\U000e0041"),
        ("traffic light", "traffic light"),
        ("圆 مربع", "圆 مربع"),
        ("wide\u3000space\u00a0here", "wide\u3000space\u00a0here"),
        ("👩\u200d🚒", "👩\u200d🚒"),
        (r"C:\new", r"C:\new"),
    ],
)
def test_what_acts_is_an_escape_and_what_is_seen_stays(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_lines_stay_where_a_text_has_several() -> None:
    assert visible("a\n\tb\x1b\r", lines=True) == "a\n\tb\\x1b\\r"


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_no_control_character_and_no_surrogate_is_left(text: str) -> None:
    shown = visible(text)
    assert not {unicodedata.category(letter) for letter in shown} & {"Cc", "Cs", "Zl", "Zp"}
    shown.encode()


def test_a_name_cannot_become_markup() -> None:
    assert markdown("<script>x</script>") == "&lt;script&gt;x&lt;/script&gt;"
    assert markdown("[a](http://b)|`c`\n# d") == r"\[a\](http://b)\|\`c\`\\n# d"
    assert markdown("_a_ *b* $c$") == r"\_a\_ \*b\* \$c\$"
    assert markdown("traffic_light-2 (red)") == "traffic_light-2 (red)"
