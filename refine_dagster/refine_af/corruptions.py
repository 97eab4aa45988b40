"""Rule-made corruptions of good triples: the negatives that the offline judge learns from.

UniEval (arXiv 2210.07197) trains its evaluators on good text against rule-made damage of it. Each
kind of damage here says which dimensions it harms and which it leaves as they were; a dimension in
neither set is left open, since the rule cannot know (a repeated answer may still be an answer).
Three groups: damage to the text, a mismatch between task and answer, and near misses, which are
well written, of the right kind, and wrong; the last are what a small policy gets wrong most.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from random import Random
from typing import Literal

from refine_dagster.generation.request import request_seed
from refine_dagster.refine_af.instance_prompt import Triple
from refine_dagster.refine_af.text_damage import (
    WORD,
    content_words,
    copied_input,
    dropped_words,
    format_leftover,
    garbled_input,
    missing_input,
    misspelt,
    repeated,
    shuffled_words,
    squeezed,
    squeezed_text,
    task,
    truncated,
    with_output,
    wording,
    wrong_number,
    wrong_order,
)

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
        self._words = [wording(source.instruction) for source in self._sources]
        # Equally near sources come in an order that has nothing to do with the alphabet.
        self._tie_breaks = [request_seed(*astuple(source)) for source in self._sources]
        self._with_word: dict[str, list[int]] = defaultdict(list)
        for position, words in enumerate(self._words):
            for word in sorted(words):
                self._with_word[word].append(position)
        self._neighbours: dict[Triple, list[Triple]] = {}
        self._rules: dict[str, Callable[[Triple, Random], Triple | None]] = {
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
            if squeezed(made) != squeezed(triple):
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
        same_kind = content_words(donor.instruction) & content_words(triple.instruction)
        if same_kind or not donor.input:
            # Told apart from the original by nothing, so drawn again.
            return triple
        return Triple(triple.instruction, donor.input, triple.output)

    def _near_output(self, triple: Triple, random: Random) -> Triple | None:
        donor = self._near_one(triple, random)
        return with_output(triple, donor.output) if donor else None

    def _wrong_word(self, triple: Triple, random: Random) -> Triple | None:
        words = triple.output.split()
        told = content_words(task(triple))
        places = [at for at, word in enumerate(words) if content_words(word)]
        donor = self._near_one(triple, random)
        if len(words) < 2 or not places or donor is None:
            return None
        of_task = [at for at in places if content_words(words[at]) & told]
        at = random.choice(of_task or places)
        donors = sorted(content_words(donor.output) - content_words(triple.output))
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
        words = wording(triple.instruction)
        shared = Counter(at for word in words for at in self._with_word.get(word, ()))
        ranked = sorted(
            shared,
            key=lambda at: (
                -shared[at] / (len(words) + len(self._words[at]) - shared[at]),
                self._tie_breaks[at],
            ),
        )
        own = content_words(triple.output)
        near: list[Triple] = []
        outputs = {squeezed_text(triple.output)}
        for at in ranked:
            donor = self._sources[at]
            text = squeezed_text(donor.output)
            if text in outputs or (not triple.input and content_words(donor.output) & own):
                continue
            outputs.add(text)
            near.append(donor)
            if len(near) == NEIGHBOURS:
                break
        self._neighbours[triple] = near
        return near
