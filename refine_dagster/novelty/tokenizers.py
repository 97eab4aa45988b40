"""The tokenizers that ROUGE-L compares texts by.

`rouge_score` is that package's: runs of [a-z0-9] after lower-casing; all else separates tokens.
`unicode` reads every script: words of letters, marks and digits; single characters where a script
writes no spaces between words; and symbols outside ASCII, such as emoji. Texts are in NFKC before.
An ASCII text has the same tokens by both.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

from refine_dagster.language import Reading
from refine_dagster.novelty.rouge import rouge_tokens

Tokenizer = Literal["rouge_score", "unicode"]

# Scripts without spaces between words: Thai, Lao, Myanmar, Khmer, kana, bopomofo, Han.
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31a0-\u31ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# What `rouge_score` drops: letters and digits that are not Latin, pictographs.
_UNREAD = re.compile(
    r"(?![\u0000-\u036f\u1d00-\u1dbf\u1e00-\u1eff\u212a\u2c60-\u2c7f\ua720-\ua7ff\ufb00-\ufb06])\w"
    r"|[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]"
)
_VARIATIONS = range(0xFE00, 0xFE10)


def unicode_tokens(text: str) -> list[str]:
    """The tokens of `unicode`.

    >>> unicode_tokens("It's für 三只 🐶.")
    ['it', 's', 'für', '三', '只', '🐶']
    """
    if text.isascii():
        return rouge_tokens(text)
    return unicodedata.normalize("NFKC", text).lower().translate(_SPACED).split()


TOKENIZERS: dict[Tokenizer, Callable[[str], list[str]]] = {
    "rouge_score": rouge_tokens,
    "unicode": unicode_tokens,
}


def word_count(text: str) -> int:
    """Words between spaces; tokens of `unicode` where a text has characters that are words."""
    return len(unicode_tokens(text) if UNSPACED.search(text) else text.split())


def tokenizer_of(text: str, reading: Reading) -> Tokenizer:
    """The tokenizer of a text.

    >>> tokenizer_of("Sing a café song.", "by_script"), tokenizer_of("Sing 歌.", "by_script")
    ('rouge_score', 'unicode')
    """
    if reading == "by_script":
        return "rouge_score" if text.isascii() or not _UNREAD.search(text) else "unicode"
    return reading


def encoding_reader(reading: Reading) -> Callable[[str], str]:
    """Makes of a text that is not ASCII one that has a character for each byte of its tokens.

    Bytes from 128 on belong to tokens; all others are as in an ASCII text, lower-cased.
    """

    def read(text: str) -> str:
        if tokenizer_of(text, reading) == "rouge_score":
            return text.lower().encode("ascii", "replace").decode("ascii")
        return " ".join(unicode_tokens(text)).encode().decode("latin-1")

    return read


class _Spaced(dict[int, str]):
    """Code point -> what stands for it in a text whose tokens are between spaces."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Cf" or code in _VARIATIONS:
            spaced = ""
        elif UNSPACED.match(character) or (category[0] == "S" and code > 127):
            spaced = f" {character} "
        else:
            spaced = character if category[0] in "LMN" else " "
        self[code] = spaced
        return spaced


_SPACED = _Spaced()
