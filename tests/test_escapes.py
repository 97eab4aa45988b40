"""What a terminal would obey or hide is shown by its code; nothing of a text acts as Markdown."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from refine_dagster import escapes

# Printed signs of category Cf: Arabic, Syriac, Kaithi and Egyptian marks around numbers.
PRINTED = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
PRINTED |= set(range(0x13430, 0x13440))


def test_every_character_that_controls_or_hides_is_known() -> None:
    kept = {*map(ord, "\n\t\u200c\u200d"), *PRINTED}
    hidden = {
        code
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and code not in kept
    }
    found = {code for code in range(sys.maxunicode + 1) if escapes.HIDDEN.match(chr(code))}
    assert hidden <= found
    others = {unicodedata.category(chr(code)) for code in found - hidden}
    assert others <= {"Cn"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("safe\r\nline", "safe\\r\nline"),
        ("gnp\u202e.exe\u2066", "gnp\\u202e.exe\\u2066"),
        ("\ud800 \U000e0041", "\\ud800 \\U000e0041"),
        ("क्‍ष  日本", "क्‍ष  日本"),
    ],
)
def test_the_terminal(text: str, shown: str) -> None:
    assert escapes.terminal_text(text) == shown


def test_json_keeps_the_value() -> None:
    text = "a\x1b\x9b\u202e\ud800 \U000e0041 日本"
    shown = escapes.terminal_json(json.dumps([text], ensure_ascii=False))
    assert json.loads(shown) == [text]
    assert not escapes.HIDDEN.search(shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("![x](http://a/b.png)", r"\!\[x\](http\://a/b.png)"),
        ("<img src=x>", r"\<img src=x\>"),
        ("a | b\n# c", r"a \| b \# c"),
        ("`x` \\| www.a.b", r"\`x\` \\\| www\.a.b"),
        ("a\x07b", r"a\\x07b"),
        ("seed_id _a_ a__b", r"seed_id \_a\_ a\_\_b"),
    ],
)
def test_markdown(text: str, shown: str) -> None:
    assert escapes.markdown_text(text) == shown
