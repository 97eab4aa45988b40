"""Texts of seeds and models, escaped for where they are shown: a terminal, JSON, or Markdown.

A terminal obeys control characters: they move the cursor, set its title, write to the clipboard.
Others change the direction of a line or print nothing, so that a text is not what it seems. All of
them are shown by their codes. Joiners stay, because words of several scripts need them.
"""

from __future__ import annotations

import re

# The categories Cc, Cf, Cs, Zl and Zp, except line breaks, tabs, joiners (U+200C and U+200D) and
# the signs among them that are printed.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e007f]"
)
# What has a meaning within a line of Markdown, starts HTML, or makes an address a link. Underscores
# within a word mean nothing.
_MARKUP = re.compile(r"([\\`*\[\]<>|&#~!$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.)")


def terminal_text(text: str) -> str:
    """A text that acts on no terminal: what controls or hides is shown by its code.

    >>> terminal_text("a\\x1b[2J\\u202eb\\n\\tc")
    'a\\\\x1b[2J\\\\u202eb\\n\\tc'
    """
    return HIDDEN.sub(lambda hidden: code_of(hidden[0]), text)


def terminal_json(text: str) -> str:
    """JSON of the same value that acts on no terminal.

    >>> terminal_json('"a\\x9b\\U000e0041"')
    '"a\\\\u009b\\\\udb40\\\\udc41"'
    """
    return HIDDEN.sub(lambda hidden: _json_code(hidden[0]), text)


def markdown_text(text: str) -> str:
    """A text that Markdown shows as it is, on one line.

    >>> markdown_text("a <b>\\n| *c*\\x07")
    'a \\\\<b\\\\> \\\\| \\\\*c\\\\*\\\\\\\\x07'
    """
    return _MARKUP.sub(r"\\\1", terminal_text(" ".join(text.split())))


def code_of(character: str) -> str:
    """A character as Python writes it.

    >>> code_of("\\u202e")
    '\\\\u202e'
    """
    return character.encode("unicode_escape").decode()


def _json_code(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
