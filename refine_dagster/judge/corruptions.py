"""Rule-made corruptions of good examples: the negatives that the offline judge learns from.

UniEval (arXiv 2210.07197) trains its evaluators on good text against rule-made damage of it. Each
kind of corruption names the dimensions that it harms and those that it provably leaves alone; any
other dimension is unknown (a repeated answer may still be an answer). There are three groups:
damage to the text; a mismatch of task and answer; and near misses, which are well written, of the
right kind, and wrong, as most errors of a small policy are.

A rule takes an example and a random generator. It returns the worse example, the same example where
the draw changed nothing, or None where it does not apply.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from random import Random
from typing import Literal

from refine_dagster.prompts.example import NO_INPUT, Example
from refine_dagster.seeding import request_seed

# Damage to the order or number of words does not show in texts of fewer words.
MIN_WORDS = 4
DROPPED_SHARE = 0.35
# An output with at least this share of words from its task counts as a rearrangement of them.
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
Rule = Callable[[Example, Random], Example | None]


def task_text(example: Example) -> str:
    return f"{example.instruction} {example.input}"


def wording(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))


def content_words(text: str) -> set[str]:
    """Lower-case words of four letters or more, and numbers."""
    words = {word.lower() for word in WORD.findall(text) if len(word) > 3}
    return words | set(NUMBER.findall(text))


def normalised(text: str) -> str:
    """`text` without differences of case, spaces and the marks around it."""
    return " ".join(text.lower().split()).strip(" .!?")


def _is_prose(text: str) -> bool:
    """Whether the order of the words matters: a sentence, and not a list of items."""
    words = text.split()
    separators = sum(word.endswith(",") or word in {"and", "or"} for word in words)
    return len(words) >= MIN_WORDS and separators * 2 < len(words) - 1 and text[-1:] in ".!?"


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


def _of_prose(damage: Callable[[str, Random], str]) -> Rule:
    """The rule that damages the output where it is prose."""

    def rule(example: Example, random: Random) -> Example | None:
        if not _is_prose(example.output):
            return None
        return with_output(example, damage(example.output, random))

    return rule


def misspelt(example: Example, random: Random) -> Example | None:
    """In one or two words, two letters change places, one is lost or doubled, or the end is cut."""
    words = example.output.split()
    long = [at for at, word in enumerate(words) if len(word) >= MIN_WORDS and word.isalpha()]
    if not long:
        return None
    for at in random.sample(long, min(len(long), random.randint(1, 2))):
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
    texts = {**asdict(example), "input": example.input or NO_INPUT}
    return with_output(example, random.choice(LEFTOVERS).format(**texts))


def missing_input(example: Example, random: Random) -> Example | None:
    return Example(example.instruction, "", example.output) if example.input else None


def copied_input(example: Example, random: Random) -> Example | None:
    return with_output(example, example.input or example.instruction)


def wrong_number(example: Example, random: Random) -> Example | None:
    text = example.output
    numbers = list(NUMBER.finditer(text))
    if not numbers:
        return None
    number = random.choice(numbers)
    value = int(number.group())
    near = (*range(value - 3, value + 4), value + 10, value * 2)
    of_task = [int(digits) for digits in NUMBER.findall(task_text(example))]
    changed = random.choice([other for other in near if other >= 0] + of_task)
    return with_output(example, f"{text[: number.start()]}{changed}{text[number.end() :]}")


def wrong_order(example: Example, random: Random) -> Example | None:
    """Two items of a rearrangement of the task's own words change places, or one is lost."""
    separator = ", " if ", " in example.output else " "
    ending = example.output[-1:] if example.output[-1:] in ".!?" else ""
    items = example.output.removesuffix(ending).split(separator)
    task = task_text(example)
    of_task = {*WORD.findall(task.lower()), *NUMBER.findall(task)}
    words = WORD.findall(example.output.lower()) + NUMBER.findall(example.output)
    taken = sum(word in of_task for word in words)
    if len(items) < 3 or _is_prose(example.output) or taken < REARRANGED_SHARE * len(words):
        return None
    if random.random() < 0.25:
        del items[random.randrange(len(items))]
    else:
        first, second = random.sample(range(len(items)), 2)
        items[first], items[second] = items[second], items[first]
    return with_output(example, separator.join(items) + ending)


RULES: dict[str, Rule] = {
    "shuffled_words": _of_prose(_shuffle),
    "dropped_words": _of_prose(_drop),
    "truncated": _of_prose(_cut),
    "misspelt": misspelt,
    "repeated": repeated,
    "garbled_input": garbled_input,
    "format_leftover": format_leftover,
    "missing_input": missing_input,
    "copied_input": copied_input,
    "wrong_number": wrong_number,
    "wrong_order": wrong_order,
}

Dimension = Literal["naturalness", "coherence", "understandability"]
Group = Literal["damage", "mismatch", "near_miss"]
N: Dimension = "naturalness"
C: Dimension = "coherence"
U: Dimension = "understandability"
DIMENSIONS: tuple[Dimension, ...] = (N, C, U)

# A near miss takes its answer from one of so many neighbours; nearer ones are preferred by this
# power. A rule that changed nothing draws again, so many times.
NEIGHBOURS = 12
NEARNESS = 3
TRIES = 8


@dataclass(frozen=True)
class Kind:
    """A kind of corruption: its group, and the dimensions that it harms and leaves alone."""

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


# For each of `DIMENSIONS` whether an example is good; None where that is unknown.
Labels = tuple[bool | None, ...]
GOOD: Labels = (True,) * len(DIMENSIONS)
# Of a wrong answer, which may be fluent or not.
INCOHERENT: Labels = tuple(False if dimension == C else None for dimension in DIMENSIONS)


@dataclass(frozen=True)
class Corruption:
    """An example made worse by one rule; `kind` is a key of `KINDS`."""

    kind: str
    example: Example

    def label(self, dimension: Dimension) -> bool | None:
        """Whether the example is still good in this dimension; None where that is unknown."""
        kind = KINDS[self.kind]
        if dimension in kind.harms:
            return False
        return True if dimension in kind.spares else None

    @property
    def labels(self) -> Labels:
        return tuple(map(self.label, DIMENSIONS))


class Corruptor:
    """Corrupts examples; wrong inputs and outputs come from `sources`, whatever their order."""

    def __init__(self, sources: Sequence[Example]) -> None:
        self._sources = sorted(set(sources), key=astuple)
        self._words = [wording(source.instruction) for source in self._sources]
        # Equally near sources are ordered by a hash, not by the alphabet.
        self._tie_breaks = [request_seed(*astuple(source)) for source in self._sources]
        self._with_word: dict[str, list[int]] = defaultdict(list)
        for position, words in enumerate(self._words):
            for word in sorted(words):
                self._with_word[word].append(position)
        self._neighbours: dict[Example, list[Example]] = {}
        self._rules: dict[str, Rule] = {
            **RULES,
            "other_output": self._other_output,
            "other_input": self._other_input,
            "near_output": self._near_output,
            "wrong_word": self._wrong_word,
        }

    def corrupt(self, example: Example, kind: str, run_seed: str) -> Corruption | None:
        """The corruption of `example` by one rule, or None where the rule does not apply to it."""
        random = Random(request_seed(run_seed, kind, *astuple(example)))
        for _ in range(TRIES):
            worse = self._rules[kind](example, random)
            if worse is None:
                return None
            if _content(worse) != _content(example):
                return Corruption(kind, worse)
        return None

    def first(self, example: Example, kinds: Iterable[str], run_seed: str) -> Corruption | None:
        """The corruption of the first of these kinds that applies."""
        made = (self.corrupt(example, kind, run_seed) for kind in kinds)
        return next((corruption for corruption in made if corruption is not None), None)

    def corruptions(self, example: Example, run_seed: str) -> list[Corruption]:
        """One corruption of every kind that applies, in the order of `KINDS`."""
        corruptions = (self.corrupt(example, kind, run_seed) for kind in KINDS)
        return [corruption for corruption in corruptions if corruption is not None]

    def _other_output(self, example: Example, random: Random) -> Example | None:
        return with_output(example, random.choice(self._sources).output)

    def _other_input(self, example: Example, random: Random) -> Example | None:
        donor = random.choice(self._sources)
        same_kind = content_words(donor.instruction) & content_words(example.instruction)
        if same_kind or not donor.input:
            return example
        return Example(example.instruction, donor.input, example.output)

    def _near_output(self, example: Example, random: Random) -> Example | None:
        donor = self._neighbour(example, random)
        return with_output(example, donor.output) if donor else None

    def _wrong_word(self, example: Example, random: Random) -> Example | None:
        words = example.output.split()
        task = content_words(task_text(example))
        content = [at for at, word in enumerate(words) if content_words(word)]
        donor = self._neighbour(example, random)
        if len(words) < 2 or not content or donor is None:
            return None
        of_task = [at for at in content if content_words(words[at]) & task]
        at = random.choice(of_task or content)
        donors = sorted(content_words(donor.output) - content_words(example.output))
        if not donors:
            return example
        words[at] = WORD.sub(random.choice(donors), words[at], count=1)
        return with_output(example, " ".join(words))

    def _neighbour(self, example: Example, random: Random) -> Example | None:
        near = self._nearest(example)
        return near[int(len(near) * random.random() ** NEARNESS)] if near else None

    def _nearest(self, example: Example) -> list[Example]:
        """Sources with other outputs, by the Jaccard similarity of their instructions' words.

        Where the example has no input, an output that shares a word with the right one may be
        right too, so it is left out.
        """
        if example in self._neighbours:
            return self._neighbours[example]
        words = wording(example.instruction)
        shared = Counter(at for word in words for at in self._with_word.get(word, ()))
        ranked = sorted(
            shared,
            key=lambda at: (
                -shared[at] / (len(words) + len(self._words[at]) - shared[at]),
                self._tie_breaks[at],
            ),
        )
        own_words = content_words(example.output)
        near: list[Example] = []
        outputs = {normalised(example.output)}
        for at in ranked:
            donor = self._sources[at]
            text = normalised(donor.output)
            if text in outputs or (not example.input and content_words(donor.output) & own_words):
                continue
            outputs.add(text)
            near.append(donor)
            if len(near) == NEIGHBOURS:
                break
        self._neighbours[example] = near
        return near


def _content(example: Example) -> tuple[str, str]:
    return normalised(example.input), normalised(example.output)
