"""What is wrong with values of config fields: every problem of a profile in one error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from refine_dagster.errors import RefineError


class ProfileError(RefineError):
    """The profile, or one of its fields, does not exist or has a value out of range."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with a value, in one sentence, and the section that says what is right."""

    text: str
    section: str


def refused(error: ValidationError, origins: Mapping[str, str], section: str = "") -> list[Problem]:
    """The values that pydantic refuses.

    Args:
        origins: name of a field -> where its value stands.
        section: the section that was validated; empty for a whole profile.
    """
    problems = []
    for item in error.errors():
        place = [part for part in (section, *map(str, item["loc"])) if part]
        # A location may go on inside the value, to an item of a list.
        names = [".".join(place[:length]) for length in (2, 1)]
        name = next((name for name in names if name in origins), names[0])
        value = f" = {item['input']!r} ({origins.get(name, 'default')})"
        of_section = isinstance(item["input"], dict)  # fields that do not agree with each other
        message = item["msg"].removeprefix("Value error, ")
        text = f"{names[-1] if of_section else name + value}: {message}"
        problems.append(Problem(text, place[0]))
    return problems


def profile_error(where: str, problems: Sequence[Problem]) -> ProfileError:
    """One error of all problems."""
    sections = sorted({problem.section for problem in problems} - {""})
    section = sections[0] if len(sections) == 1 else "SECTION"
    texts = [problem.text for problem in problems]
    return ProfileError(
        texts[0] if len(texts) == 1 else "\n  ".join([f"{len(texts)} problems", *texts]),
        where=where,
        fix=f"`refine-dagster config describe {section}` prints fields, types, ranges and meanings",
    )
