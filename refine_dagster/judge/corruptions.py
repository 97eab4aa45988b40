"""Rule-made corruptions of good examples: the negatives that the offline judge learns from.

UniEval (arXiv 2210.07197) trains its evaluators on good text against rule-made damage of it. Each
kind of damage here says which dimensions it harms and which it leaves as they were; a dimension in
neither set is left open, since the rule cannot know (a repeated answer may still be an answer).
Three groups: damage to the text, a mismatch between task and answer, and near misses, which are
well written, of the right kind, and wrong; the last are what a small policy gets wrong most.

The rules that make a good example worse without looking at other examples.

Each takes an example and a source of chance and returns the worse example, the same one where
chance changed nothing, or None where the rule has nothing to take hold of. `corruptions.py` names
the kinds, says what each harms, and adds the rules that borrow from other examples.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from random import Random
from typing import Literal

from refine_dagster.prompts.example import NO_INPUT, Example
from refine_dagster.seeding import request_seed

# Words of a text below which damage to their order or number would not show.
MIN_WORDS = 4
DROPPED_SHARE = 0.35
# Share of an output's words that stand in its task from which it counts as a rearrangement of it.
REARRANGED_SHARE = 0.6
LEFTOVERS = (
    "Output: {output}",
    "{output}\nInput: {input}",
    "{output} Output: {output}",
    f"{{output}} {NO_INPUT}",
    f"{NO_INPUT} {{output}}",
    "{output} Instruction: {instruction}",
    "Task 1: {output}",
    "{output}\nTask 2:",
)
NUMBER = re.compile(r"\d+")
WORD = re.compile(r"[^\W\d_]+")


def task(example: Example) -> str:
    return f"{example.instruction} {example.input}"


def wording(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))


def content_words(text: str) -> set[str]:
    """Lower-case words of four letters or more, and numbers."""
    words = {word.lower() for word in WORD.findall(text) if len(word) > 3}
    return words | set(NUMBER.findall(text))


def squeezed_text(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?")


def squeezed(example: Example) -> tuple[str, str]:
    return squeezed_text(example.input), squeezed_text(example.output)


def _is_prose(text: str) -> bool:
    """Whether the order of the words matters: several words, and no mere list of them."""
    words = text.split()
    separate = sum(word.endswith(",") or word in {"and", "or"} for word in words)
    return len(words) >= MIN_WORDS and separate * 2 < len(words) - 1 and text[-1:] in ".!?"


def _shuffle(text: str, random: Random) -> str:
    words = text.split()
    random.shuffle(words)
    return " ".join(words)


def _drop(text: str, random: Random) -> str:
    words = text.split()
    count = max(1, round(DROPPED_SHARE * len(words)))
    dropped = set(random.sample(range(len(words)), count))
    return " ".join(word for at, word in enumerate(words) if at not in dropped)


def _cut(text: str, random: Random) -> str:
    words = text.split()
    return " ".join(words[: random.randint(max(1, len(words) // 3), len(words) - 1)])


def with_output(example: Example, output: str) -> Example:
    return Example(example.instruction, example.input, output)


def shuffled_words(example: Example, random: Random) -> Example | None:
    if not _is_prose(example.output):
        return None
    return with_output(example, _shuffle(example.output, random))


def dropped_words(example: Example, random: Random) -> Example | None:
    if not _is_prose(example.output):
        return None
    return with_output(example, _drop(example.output, random))


def truncated(example: Example, random: Random) -> Example | None:
    if not _is_prose(example.output):
        return None
    return with_output(example, _cut(example.output, random))


def misspelt(example: Example, random: Random) -> Example | None:
    """In one or two words, two letters change places, one is lost or doubled, or the end is cut."""
    words = example.output.split()
    places = [at for at, word in enumerate(words) if len(word) >= MIN_WORDS and word.isalpha()]
    if not places:
        return None
    for at in random.sample(places, min(len(places), random.randint(1, 2))):
        word = words[at]
        letter = random.randint(1, len(word) - 2)
        change = random.choice(("swap", "lose", "double", "cut"))
        if change == "cut":
            words[at] = word[: letter + 1]
            continue
        if change == "swap":
            middle = word[letter + 1] + word[letter]
        else:
            middle = word[letter + 1] if change == "lose" else word[letter] * 2 + word[letter + 1]
        words[at] = word[:letter] + middle + word[letter + 2 :]
    return with_output(example, " ".join(words))


def repeated(example: Example, random: Random) -> Example | None:
    words = example.output.split()
    if not words or not WORD.search(example.output):
        return None
    length = random.randint(1, min(4, len(words)))
    start = random.randint(0, len(words) - length)
    phrase = words[start : start + length]
    times = random.randint(1, 3) if length > 1 else random.randint(2, 4)
    return with_output(
        example, " ".join(words[: start + length] + phrase * times + words[start + length :])
    )


def garbled_input(example: Example, random: Random) -> Example | None:
    if not _is_prose(example.input):
        return None
    damage = random.choice((_shuffle, _drop))
    return Example(example.instruction, damage(example.input, random), example.output)


def format_leftover(example: Example, random: Random) -> Example | None:
    leftover = random.choice(LEFTOVERS)
    return with_output(
        example,
        leftover.format(
            output=example.output, input=example.input or NO_INPUT, instruction=example.instruction
        ),
    )


def missing_input(example: Example, random: Random) -> Example | None:
    return Example(example.instruction, "", example.output) if example.input else None


def copied_input(example: Example, random: Random) -> Example | None:
    return with_output(example, example.input or example.instruction)


def wrong_number(example: Example, random: Random) -> Example | None:
    numbers = list(NUMBER.finditer(example.output))
    if not numbers:
        return None
    number = random.choice(numbers)
    value = int(number.group())
    others = [
        other for other in (*range(value - 3, value + 4), value + 10, value * 2) if other >= 0
    ]
    told = [int(one) for one in NUMBER.findall(task(example))]
    changed = str(random.choice(others + told))
    text = example.output
    return with_output(example, text[: number.start()] + changed + text[number.end() :])


def wrong_order(example: Example, random: Random) -> Example | None:
    """Two items of a rearrangement of the task's own words change places, or one is lost."""
    joint = ", " if ", " in example.output else " "
    ending = example.output[-1:] if example.output[-1:] in ".!?" else ""
    items = example.output.removesuffix(ending).split(joint)
    told = Counter(WORD.findall(task(example).lower()) + NUMBER.findall(task(example)))
    own = WORD.findall(example.output.lower()) + NUMBER.findall(example.output)
    known = sum(word in told for word in own)
    if len(items) < 3 or _is_prose(example.output) or known < REARRANGED_SHARE * len(own):
        return None
    if random.random() < 0.25:
        del items[random.randrange(len(items))]
    else:
        one, other = random.sample(range(len(items)), 2)
        items[one], items[other] = items[other], items[one]
    return with_output(example, joint.join(items) + ending)


Dimension = Literal["naturalness", "coherence", "understandability"]
Group = Literal["damage", "mismatch", "near_miss"]
N: Dimension = "naturalness"
C: Dimension = "coherence"
U: Dimension = "understandability"
DIMENSIONS: tuple[Dimension, ...] = (N, C, U)

# Neighbours by wording from which a near miss takes its answer; the power by which nearer ones are
# preferred; redraws of a rule that gave the original back.
NEIGHBOURS = 12
NEARNESS = 3
TRIES = 8


@dataclass(frozen=True)
class Kind:
    """A kind of corruption: its group, what it harms, and what it provably leaves as it was."""

    group: Group
    harms: frozenset[Dimension]
    spares: frozenset[Dimension]


def _kind(group: Group, harms: tuple[Dimension, ...], spares: tuple[Dimension, ...] = ()) -> Kind:
    return Kind(group, frozenset(harms), frozenset(spares))


KINDS: dict[str, Kind] = {
    "shuffled_words": _kind("damage", (N, U, C)),
    "dropped_words": _kind("damage", (N, U, C)),
    "truncated": _kind("damage", (N, U, C)),
    "misspelt": _kind("damage", (N,), (U,)),
    "repeated": _kind("damage", (N,), (U,)),
    "garbled_input": _kind("damage", (N, U, C)),
    "format_leftover": _kind("damage", (N,)),
    "other_output": _kind("mismatch", (C,), (N, U)),
    "other_input": _kind("mismatch", (C,), (N, U)),
    "missing_input": _kind("mismatch", (C,), (N, U)),
    "copied_input": _kind("mismatch", (C,), (N, U)),
    "near_output": _kind("near_miss", (C,), (N, U)),
    "wrong_number": _kind("near_miss", (C,), (N, U)),
    "wrong_order": _kind("near_miss", (C,), (N, U)),
    "wrong_word": _kind("near_miss", (C,)),
}


@dataclass(frozen=True)
class Corruption:
    """An example made worse by one rule; `kind` is a key of `KINDS`."""

    kind: str
    example: Example

    def label(self, dimension: Dimension) -> bool | None:
        """True where the example is still good, False where it is harmed, None where unknown."""
        kind = KINDS[self.kind]
        if dimension in kind.harms:
            return False
        return True if dimension in kind.spares else None


class Corruptor:
    """Corrupts examples; wrong inputs and outputs are taken from `sources`.

    Equal sources in any order give equal corruptions.

    Args:
        sources: the good examples to take other inputs and outputs from.
    """

    def __init__(self, sources: Sequence[Example]) -> None:
        self._sources = sorted(
            set(sources), key=lambda example: (example.instruction, example.input, example.output)
        )
        self._words = [wording(source.instruction) for source in self._sources]
        # Equally near sources come in an order that has nothing to do with the alphabet.
        self._tie_breaks = [request_seed(*astuple(source)) for source in self._sources]
        self._with_word: dict[str, list[int]] = defaultdict(list)
        for position, words in enumerate(self._words):
            for word in sorted(words):
                self._with_word[word].append(position)
        self._neighbours: dict[Example, list[Example]] = {}
        self._rules: dict[str, Callable[[Example, Random], Example | None]] = {
            "shuffled_words": shuffled_words,
            "dropped_words": dropped_words,
            "truncated": truncated,
            "misspelt": misspelt,
            "repeated": repeated,
            "garbled_input": garbled_input,
            "format_leftover": format_leftover,
            "other_output": self._other_output,
            "other_input": self._other_input,
            "missing_input": missing_input,
            "copied_input": copied_input,
            "near_output": self._near_output,
            "wrong_number": wrong_number,
            "wrong_order": wrong_order,
            "wrong_word": self._wrong_word,
        }

    def corrupt(self, example: Example, kind: str, run_seed: str) -> Corruption | None:
        """The corruption of `example` by one rule, or None where the rule does not apply to it.

        Equal (example, kind, run seed) over equal sources give the same corruption.
        """
        random = Random(
            request_seed(run_seed, kind, example.instruction, example.input, example.output)
        )
        rule = self._rules[kind]
        for _ in range(TRIES):
            made = rule(example, random)
            if made is None:
                return None
            if squeezed(made) != squeezed(example):
                return Corruption(kind, made)
        return None

    def corruptions(self, example: Example, run_seed: str) -> list[Corruption]:
        """One corruption of every kind that applies, in the order of `KINDS`."""
        made = (self.corrupt(example, kind, run_seed) for kind in KINDS)
        return [one for one in made if one is not None]

    def _other_output(self, example: Example, random: Random) -> Example | None:
        donor = random.choice(self._sources)
        return Example(example.instruction, example.input, donor.output)

    def _other_input(self, example: Example, random: Random) -> Example | None:
        donor = random.choice(self._sources)
        same_kind = content_words(donor.instruction) & content_words(example.instruction)
        if same_kind or not donor.input:
            # Told apart from the original by nothing, so drawn again.
            return example
        return Example(example.instruction, donor.input, example.output)

    def _near_output(self, example: Example, random: Random) -> Example | None:
        donor = self._near_one(example, random)
        return with_output(example, donor.output) if donor else None

    def _wrong_word(self, example: Example, random: Random) -> Example | None:
        words = example.output.split()
        told = content_words(task(example))
        places = [at for at, word in enumerate(words) if content_words(word)]
        donor = self._near_one(example, random)
        if len(words) < 2 or not places or donor is None:
            return None
        of_task = [at for at in places if content_words(words[at]) & told]
        at = random.choice(of_task or places)
        donors = sorted(content_words(donor.output) - content_words(example.output))
        if not donors:
            return example
        words[at] = WORD.sub(random.choice(donors), words[at], count=1)
        return Example(example.instruction, example.input, " ".join(words))

    def _near_one(self, example: Example, random: Random) -> Example | None:
        """A neighbour, the nearer the likelier."""
        near = self._near(example)
        return near[int(len(near) * random.random() ** NEARNESS)] if near else None

    def _near(self, example: Example) -> list[Example]:
        """Sources worded most like this one (shared over all words) whose outputs differ.

        Without an input to tell two tasks apart, an output that shares a word with the right one
        may be right as well; it is passed over.
        """
        found = self._neighbours.get(example)
        if found is not None:
            return found
        words = wording(example.instruction)
        shared = Counter(at for word in words for at in self._with_word.get(word, ()))
        ranked = sorted(
            shared,
            key=lambda at: (
                -shared[at] / (len(words) + len(self._words[at]) - shared[at]),
                self._tie_breaks[at],
            ),
        )
        own = content_words(example.output)
        near: list[Example] = []
        outputs = {squeezed_text(example.output)}
        for at in ranked:
            donor = self._sources[at]
            text = squeezed_text(donor.output)
            if text in outputs or (not example.input and content_words(donor.output) & own):
                continue
            outputs.add(text)
            near.append(donor)
            if len(near) == NEIGHBOURS:
                break
        self._neighbours[example] = near
        return near
