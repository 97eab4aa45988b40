"""Rule-made corruptions of good triples: the negatives that the offline judge learns from.

UniEval (arXiv 2210.07197) trains its evaluators on good text against rule-made damage of it. Each
kind of damage here says which dimensions it harms and which it leaves as they were; a dimension in
neither set is left open, since the rule cannot know (a repeated answer may still be an answer).
Three groups: damage to the text, a mismatch between task and answer, and near misses, which are
well written, of the right kind, and wrong; the last are what a small policy gets wrong most.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from random import Random
from typing import Literal

from refine_dagster.generation.request import request_seed
from refine_dagster.refine_af.instance_prompt import NO_INPUT, Triple

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
    """A triple made worse by one rule; `kind` is a key of `KINDS`."""

    kind: str
    triple: Triple

    def label(self, dimension: Dimension) -> bool | None:
        """True where the triple is still good, False where it is harmed, None where unknown."""
        kind = KINDS[self.kind]
        if dimension in kind.harms:
            return False
        return True if dimension in kind.spares else None


class Corruptor:
    """Corrupts triples; wrong inputs and outputs are taken from `sources`.

    Equal sources in any order give equal corruptions.

    Args:
        sources: the good triples to take other inputs and outputs from.
    """

    def __init__(self, sources: Sequence[Triple]) -> None:
        self._sources = sorted(
            set(sources), key=lambda triple: (triple.instruction, triple.input, triple.output)
        )
        self._words = [_words(source.instruction) for source in self._sources]
        # Equally near sources come in an order that has nothing to do with the alphabet.
        self._tie_breaks = [request_seed(*astuple(source)) for source in self._sources]
        self._with_word: dict[str, list[int]] = defaultdict(list)
        for position, words in enumerate(self._words):
            for word in sorted(words):
                self._with_word[word].append(position)
        self._neighbours: dict[Triple, list[Triple]] = {}
        self._rules: dict[str, Callable[[Triple, Random], Triple | None]] = {
            "shuffled_words": _shuffled_words,
            "dropped_words": _dropped_words,
            "truncated": _truncated,
            "misspelt": _misspelt,
            "repeated": _repeated,
            "garbled_input": _garbled_input,
            "format_leftover": _format_leftover,
            "other_output": self._other_output,
            "other_input": self._other_input,
            "missing_input": _missing_input,
            "copied_input": _copied_input,
            "near_output": self._near_output,
            "wrong_number": _wrong_number,
            "wrong_order": _wrong_order,
            "wrong_word": self._wrong_word,
        }

    def corrupt(self, triple: Triple, kind: str, salt: str) -> Corruption | None:
        """The corruption of `triple` by one rule, or None where the rule does not apply to it.

        Equal (triple, kind, salt) over equal sources give the same corruption.
        """
        random = Random(request_seed(salt, kind, triple.instruction, triple.input, triple.output))
        rule = self._rules[kind]
        for _ in range(TRIES):
            made = rule(triple, random)
            if made is None:
                return None
            if _squeezed(made) != _squeezed(triple):
                return Corruption(kind, made)
        return None

    def corruptions(self, triple: Triple, salt: str) -> list[Corruption]:
        """One corruption of every kind that applies, in the order of `KINDS`."""
        made = (self.corrupt(triple, kind, salt) for kind in KINDS)
        return [one for one in made if one is not None]

    def _other_output(self, triple: Triple, random: Random) -> Triple | None:
        donor = random.choice(self._sources)
        return Triple(triple.instruction, triple.input, donor.output)

    def _other_input(self, triple: Triple, random: Random) -> Triple | None:
        donor = random.choice(self._sources)
        same_kind = _content_words(donor.instruction) & _content_words(triple.instruction)
        if same_kind or not donor.input:
            # Told apart from the original by nothing, so drawn again.
            return triple
        return Triple(triple.instruction, donor.input, triple.output)

    def _near_output(self, triple: Triple, random: Random) -> Triple | None:
        donor = self._near_one(triple, random)
        return _with_output(triple, donor.output) if donor else None

    def _wrong_word(self, triple: Triple, random: Random) -> Triple | None:
        words = triple.output.split()
        told = _content_words(_task(triple))
        places = [at for at, word in enumerate(words) if _content_words(word)]
        donor = self._near_one(triple, random)
        if len(words) < 2 or not places or donor is None:
            return None
        of_task = [at for at in places if _content_words(words[at]) & told]
        at = random.choice(of_task or places)
        donors = sorted(_content_words(donor.output) - _content_words(triple.output))
        if not donors:
            return triple
        words[at] = WORD.sub(random.choice(donors), words[at], count=1)
        return Triple(triple.instruction, triple.input, " ".join(words))

    def _near_one(self, triple: Triple, random: Random) -> Triple | None:
        """A neighbour, the nearer the likelier."""
        near = self._near(triple)
        return near[int(len(near) * random.random() ** NEARNESS)] if near else None

    def _near(self, triple: Triple) -> list[Triple]:
        """Sources worded most like this one (shared over all words) whose outputs differ.

        Without an input to tell two tasks apart, an output that shares a word with the right one
        may be right as well; it is passed over.
        """
        found = self._neighbours.get(triple)
        if found is not None:
            return found
        words = _words(triple.instruction)
        shared = Counter(at for word in words for at in self._with_word.get(word, ()))
        ranked = sorted(
            shared,
            key=lambda at: (
                -shared[at] / (len(words) + len(self._words[at]) - shared[at]),
                self._tie_breaks[at],
            ),
        )
        own = _content_words(triple.output)
        near: list[Triple] = []
        outputs = {_squeezed_text(triple.output)}
        for at in ranked:
            donor = self._sources[at]
            text = _squeezed_text(donor.output)
            if text in outputs or (not triple.input and _content_words(donor.output) & own):
                continue
            outputs.add(text)
            near.append(donor)
            if len(near) == NEIGHBOURS:
                break
        self._neighbours[triple] = near
        return near


def _task(triple: Triple) -> str:
    return f"{triple.instruction} {triple.input}"


def _words(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))


def _content_words(text: str) -> set[str]:
    """Lower-case words of four letters or more, and numbers."""
    words = {word.lower() for word in WORD.findall(text) if len(word) > 3}
    return words | set(NUMBER.findall(text))


def _squeezed_text(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?")


def _squeezed(triple: Triple) -> tuple[str, str]:
    return _squeezed_text(triple.input), _squeezed_text(triple.output)


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


def _with_output(triple: Triple, output: str) -> Triple:
    return Triple(triple.instruction, triple.input, output)


def _shuffled_words(triple: Triple, random: Random) -> Triple | None:
    if not _is_prose(triple.output):
        return None
    return _with_output(triple, _shuffle(triple.output, random))


def _dropped_words(triple: Triple, random: Random) -> Triple | None:
    if not _is_prose(triple.output):
        return None
    return _with_output(triple, _drop(triple.output, random))


def _truncated(triple: Triple, random: Random) -> Triple | None:
    if not _is_prose(triple.output):
        return None
    return _with_output(triple, _cut(triple.output, random))


def _misspelt(triple: Triple, random: Random) -> Triple | None:
    """In one or two words, two letters change places, one is lost or doubled, or the end is cut."""
    words = triple.output.split()
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
    return _with_output(triple, " ".join(words))


def _repeated(triple: Triple, random: Random) -> Triple | None:
    words = triple.output.split()
    if not words or not WORD.search(triple.output):
        return None
    length = random.randint(1, min(4, len(words)))
    start = random.randint(0, len(words) - length)
    phrase = words[start : start + length]
    times = random.randint(1, 3) if length > 1 else random.randint(2, 4)
    return _with_output(
        triple, " ".join(words[: start + length] + phrase * times + words[start + length :])
    )


def _garbled_input(triple: Triple, random: Random) -> Triple | None:
    if not _is_prose(triple.input):
        return None
    damage = random.choice((_shuffle, _drop))
    return Triple(triple.instruction, damage(triple.input, random), triple.output)


def _format_leftover(triple: Triple, random: Random) -> Triple | None:
    leftover = random.choice(LEFTOVERS)
    return _with_output(
        triple,
        leftover.format(
            output=triple.output, input=triple.input or NO_INPUT, instruction=triple.instruction
        ),
    )


def _missing_input(triple: Triple, random: Random) -> Triple | None:
    return Triple(triple.instruction, "", triple.output) if triple.input else None


def _copied_input(triple: Triple, random: Random) -> Triple | None:
    return _with_output(triple, triple.input or triple.instruction)


def _wrong_number(triple: Triple, random: Random) -> Triple | None:
    numbers = list(NUMBER.finditer(triple.output))
    if not numbers:
        return None
    number = random.choice(numbers)
    value = int(number.group())
    others = [
        other for other in (*range(value - 3, value + 4), value + 10, value * 2) if other >= 0
    ]
    told = [int(one) for one in NUMBER.findall(_task(triple))]
    changed = str(random.choice(others + told))
    text = triple.output
    return _with_output(triple, text[: number.start()] + changed + text[number.end() :])


def _wrong_order(triple: Triple, random: Random) -> Triple | None:
    """Two items of a rearrangement of the task's own words change places, or one is lost."""
    joint = ", " if ", " in triple.output else " "
    ending = triple.output[-1:] if triple.output[-1:] in ".!?" else ""
    items = triple.output.removesuffix(ending).split(joint)
    told = Counter(WORD.findall(_task(triple).lower()) + NUMBER.findall(_task(triple)))
    own = WORD.findall(triple.output.lower()) + NUMBER.findall(triple.output)
    known = sum(word in told for word in own)
    if len(items) < 3 or _is_prose(triple.output) or known < REARRANGED_SHARE * len(own):
        return None
    if random.random() < 0.25:
        del items[random.randrange(len(items))]
    else:
        one, other = random.sample(range(len(items)), 2)
        items[one], items[other] = items[other], items[one]
    return _with_output(triple, joint.join(items) + ending)
