"""The words and facts of the primer's tasks, read from `primer_words.yaml`.

The offline base model learns its whole language in about a minute of CPU time, so the primer's
world is small and closed: ten topics, a few hundred words, facts that a child could check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from random import Random
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

Item = TypeVar("Item")
VOWELS = "aeiou"


class World(BaseModel, frozen=True):
    """The closed world; every mapping keeps the order of the file.

    Attributes:
        topics: topic -> countable things of it.
        topic_phrases, topic_modifiers: topic -> its form in a sentence, or before a noun, where it
            is not the topic itself.
        kinds: kind -> members, no word in two kinds.
        colours, places, sounds, uses: thing -> the only right answer.
        false_colours: colours that no thing in `colours` has.
        lines: named lists of phrases (people, cities, good, bad, adjectives, ...).
        by_topic: named lists of lines by topic or occasion.
        past: (present, past) verb phrases without a subject.
        word_data, number_data: an instruction, and the same with data in it.
    """

    topics: dict[str, tuple[str, ...]]
    topic_phrases: dict[str, str]
    topic_modifiers: dict[str, str]
    kinds: dict[str, tuple[str, ...]]
    irregular_plurals: dict[str, str]
    plain_nouns: tuple[str, ...]
    opposites: tuple[tuple[str, str], ...]
    colours: dict[str, str]
    false_colours: tuple[str, ...]
    places: dict[str, str]
    sounds: dict[str, str]
    uses: dict[str, str]
    lines: dict[str, tuple[str, ...]]
    by_topic: dict[str, dict[str, tuple[str, ...]]]
    past: tuple[tuple[str, str], ...]
    word_data: tuple[tuple[str, str], ...]
    number_data: tuple[tuple[str, str], ...]

    def plural(self, noun: str) -> str:
        """The plural of a noun of this world.

        >>> world().plural("cherry"), world().plural("bus"), world().plural("cat")
        ('cherries', 'buses', 'cats')
        """
        if noun in self.irregular_plurals:
            return self.irregular_plurals[noun]
        if noun.endswith("y") and noun[-2] not in VOWELS:
            return noun[:-1] + "ies"
        if noun.endswith(("s", "x", "ch", "sh")) or noun in ("potato", "tomato"):
            return noun + "es"
        return noun + "s"

    def topic_slots(self, topic: str) -> dict[str, str]:
        """The slots of a template that depend on a topic.

        >>> world().topic_slots("sea"), world().topic_slots("animals")["topic"]
        ({'topic': 'sea', 'the_topic': 'the sea'}, 'animal')
        """
        return {
            "topic": self.topic_modifiers.get(topic, topic),
            "the_topic": self.topic_phrases.get(topic, topic),
        }

    def things(self) -> list[tuple[str, str]]:
        """All (topic, thing) pairs in the order of the file."""
        return [(topic, thing) for topic, things in self.topics.items() for thing in things]


@lru_cache(maxsize=1)
def world() -> World:
    values = _read("primer_words.yaml")
    sections = ("sentences", "second_sentences", "tips", "slogans", "greetings")
    lists = {name: items for name, items in values.items() if isinstance(items, list)}
    lines = {name: items for name, items in lists.items() if isinstance(items[0], str)}
    by_topic = {name: values.pop(name) for name in sections}
    return World(**values, lines=lines, by_topic=by_topic)


class Wordings(BaseModel, frozen=True):
    """A family's instruction templates: `inline` ones have no input.

    The output is one of a few labels in a `classification`, an instruction in a `rewrite`.
    """

    given: tuple[str, ...] = ()
    inline: tuple[str, ...] = ()
    classification: bool = False
    rewrite: bool = False


@lru_cache(maxsize=1)
def wordings() -> Mapping[str, Wordings]:
    """Family -> its wordings, in the order of `primer_templates.yaml`."""
    entries = _read("primer_templates.yaml")
    return {family: Wordings(**entry) for family, entry in entries.items()}


@dataclass(frozen=True)
class Draft:
    """A task without its instruction: the correct output, the material and a template's slots.

    The material is the input of a `given` template, and slot `x` of an `inline` one.
    """

    output: str
    given: str
    slots: Mapping[str, str] = field(default_factory=dict)


Family = Callable[[Random], Draft]


def article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"an {noun}" if noun[0] in VOWELS else f"a {noun}"


def pick(random: Random, items: Sequence[Item]) -> Item:
    """A random item; reads one number from `random`."""
    return items[int(random.random() * len(items))]


def draw(random: Random, items: Sequence[Item], count: int) -> list[Item]:
    """`count` items from different positions, in random order; reads `count` numbers."""
    left = list(items)
    return [left.pop(int(random.random() * len(left))) for _ in range(count)]


def whole(random: Random, low: int, high: int) -> int:
    """A whole number from `low` to `high`, inclusive."""
    return low + int(random.random() * (high - low + 1))


def _read(name: str) -> dict[str, Any]:
    text = (files("refine_dagster.offline") / name).read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return values
