"""Names and texts as SQL: the one place that quotes them."""

from __future__ import annotations

from collections.abc import Iterable


def identifier(name: str) -> str:
    """A name as SQL.

    >>> identifier('a "name"')
    '"a ""name\"""'
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL.

    >>> literal("a seed's")
    "'a seed''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def literals(texts: Iterable[str]) -> str:
    """Texts as SQL, separated by commas, for IN (...)."""
    return ", ".join(literal(text) for text in texts)
