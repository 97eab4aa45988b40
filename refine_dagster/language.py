"""The language of a run: the wording of prompts, and what the rules for texts take from it.

English is declared here, all others in `languages.yaml` beside this file. An entry without
`requirements` or `header` has the English ones, with its name in the place of `English`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from refine_dagster.errors import RefineError

Reading = Literal["rouge_score", "unicode", "by_script"]
"""How the novelty filter takes tokens; see `novelty.tokenizers`."""

LATIN = r"a-zA-Z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff"
_LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Language:
    """A language.

    Attributes:
        code: its ISO 639 code, the value of the config field `language`.
        name: in English.
        letters: of its script, the inside of a class of a regular expression.
        common: frequent words that other languages of the script do not have; may be empty.
        max_words: longest instruction, in words, or in characters where these are words.
        unsuited: words of tasks that a model of text cannot do.
        requirements: of new tasks, the head of the prompt that asks for them; None is English.
        header: of the prompt that asks for an instance; None is English.
    """

    code: str
    name: str
    letters: str = LATIN
    common: tuple[str, ...] = ()
    max_words: int = 150
    unsuited: tuple[str, ...] = ()
    requirements: str | None = None
    header: str | None = None

    @property
    def reading(self) -> Reading:
        """How its texts are compared: English as published, others by the Unicode tokenizer."""
        return "by_script" if self.code == "en" else "unicode"

    def is_written_in(self, text: str) -> bool:
        """Whether at least half of the words begin in its script; a text without letters is."""
        words = _LETTERS.findall(text)
        own = re.compile(f"[{self.letters}]")
        return 2 * sum(own.match(word) is not None for word in words) >= len(words)

    def count_common(self, words: Iterable[str]) -> int:
        """How many of the words are frequent ones of the language."""
        return sum(word in self.common for word in words)


ENGLISH = Language(
    "en",
    "English",
    unsuited=(
        *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files"),
        *("map", "maps", "draw", "plot", "go to"),
    ),
    common=("the", "of", "and", "to", "is", "that", "this", "with", "what", "how", "for", "write"),
)


@cache
def languages() -> dict[str, Language]:
    """Every language by code."""
    import yaml

    text = (files("refine_dagster") / "languages.yaml").read_text(encoding="utf-8")
    found = {"en": ENGLISH}
    for code, entry in yaml.safe_load(text).items():
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in entry.items()
        }
        found[code] = Language(code, **fields)
    return found


def language_of(code: str) -> Language:
    """The language of a code.

    Raises:
        RefineError: it has no entry.
    """
    if code in languages():
        return languages()[code]
    raise RefineError(
        f"no language {code!r}; known: {', '.join(sorted(languages()))}",
        fix="take one of these, or add an entry to refine_dagster/languages.yaml "
        "(docs/languages.md)",
    )
