"""What the offline judge is trained on, batch by batch: groups of a good triple and worse ones.

Half of the groups hold rule-made corruptions of any good triple (`corruptions.py`), half what the
base model itself says to tasks with one right answer (`own_answers.py`). The first teach what good
text is, whoever writes it; the second, how the writer goes wrong whom the judge is to reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from refine_dagster.generation.request import request_seed
from refine_dagster.knobs import JudgeKnobs
from refine_dagster.refine_af.corruptions import DIMENSIONS, KINDS, Corruption, Corruptor
from refine_dagster.refine_af.instance_prompt import Triple
from refine_dagster.refine_af.judge_network import Encoded, Network
from refine_dagster.refine_af.own_answers import AnsweredTask, wrong_answers

# The corruptions that stand beside each good triple in training: one place for each, by group.
# Near misses are the hardest to tell and the commonest in what a policy writes.
PLACES = ("damage", "mismatch", "near_miss", "near_miss")
# Share of the groups that are of tasks which the base model has answered; the places in such a
# group for its wrong answers to the task, for its answers to other tasks, and for corruptions.
OWN_SHARE = 0.5
OWN_PLACES = 2
STRANGE_PLACES = 1
OWN_CORRUPTIONS = ("near_miss",)
# Groups of similar length are batched together within stretches of this many steps.
STRETCH_STEPS = 25


@dataclass(frozen=True)
class Example:
    """A triple with what is known of it, one label for each of `DIMENSIONS`."""

    encoded: Encoded
    labels: tuple[bool | None, ...]


Group = list[Example]
T = TypeVar("T")


def training_batches(
    network: Network,
    sources: list[Triple],
    answered: list[AnsweredTask],
    knobs: JudgeKnobs,
    salt: str,
) -> list[list[Group]]:
    """`knobs.steps` batches of groups; each pass over the sources corrupts them anew.

    Where the model has answered tasks, they are the source of `OWN_SHARE` of the groups.
    """
    random = Random(request_seed(salt, "judge", "batches"))
    corruptor = Corruptor(sources)
    groups_a_step = max(1, knobs.batch_size // (1 + len(PLACES)))
    wanted = knobs.steps * groups_a_step
    of_answers = round(wanted * OWN_SHARE) if answered else 0
    groups = [
        _group(network, corruptor, source, f"{salt}/{epoch}")
        for epoch, source in _passes(sources, wanted - of_answers, random)
    ]
    groups += [
        _answer_group(network, corruptor, task, answered, f"{salt}/{epoch}")
        for epoch, task in _passes(answered, of_answers, random)
    ]
    random.shuffle(groups)
    batches: list[list[Group]] = []
    for start in range(0, wanted, STRETCH_STEPS * groups_a_step):
        stretch = groups[start : start + STRETCH_STEPS * groups_a_step]
        stretch.sort(key=group_length)
        made = [stretch[at : at + groups_a_step] for at in range(0, len(stretch), groups_a_step)]
        random.shuffle(made)
        batches += made
    return batches


def _passes(sources: Sequence[T], count: int, random: Random) -> list[tuple[int, T]]:
    """`count` sources with the number of their pass; each pass has all of them in a new order."""
    drawn: list[tuple[int, T]] = []
    epoch = 0
    while len(drawn) < count:
        order = list(sources)
        random.shuffle(order)
        drawn += [(epoch, source) for source in order[: count - len(drawn)]]
        epoch += 1
    return drawn


def _answer_group(
    network: Network,
    corruptor: Corruptor,
    answered: AnsweredTask,
    others: list[AnsweredTask],
    salt: str,
) -> Group:
    """The right answer, whether or not the model found it, its wrong ones, and one corruption.

    What the model writes may be fluent or not, so only coherence is known of its answers.
    """
    task = answered.triple
    random = Random(request_seed(salt, "answers", task.instruction, task.input, task.output))
    wrong = wrong_answers(answered, others, OWN_PLACES, STRANGE_PLACES, random)
    labels = tuple(False if dimension == "coherence" else None for dimension in DIMENSIONS)
    good, *corrupted = _group(network, corruptor, task, salt, OWN_CORRUPTIONS)
    return [good, *(Example(network.encode(one), labels) for one in wrong), *corrupted]


def _group(
    network: Network,
    corruptor: Corruptor,
    source: Triple,
    salt: str,
    places: Sequence[str] = PLACES,
) -> Group:
    """The good triple and its corruptions, one for each of `places` that a kind can fill."""
    random = Random(request_seed(salt, "group", source.instruction, source.input, source.output))
    kinds = list(KINDS)
    random.shuffle(kinds)
    chosen: dict[str, Corruption] = {}
    for place in places:
        # Kinds of the place's own group first, any other where none of them applies.
        for kind in sorted(kinds, key=lambda name: KINDS[name].group != place):
            made = None if kind in chosen else corruptor.corrupt(source, kind, salt)
            if made is not None:
                chosen[kind] = made
                break
    return [
        Example(network.encode(source), (True,) * len(DIMENSIONS)),
        *(_example(network, one) for one in chosen.values()),
    ]


def _example(network: Network, corruption: Corruption) -> Example:
    labels = tuple(corruption.label(dimension) for dimension in DIMENSIONS)
    return Example(network.encode(corruption.triple), labels)


def group_length(group: Group) -> int:
    """Tokens of the group's longest text."""
    return max(len(example.encoded.ids) for example in group)


def class_weights(groups: list[Group]) -> list[tuple[float, float]]:
    """For each dimension the weight of a harmed and of a good example; both classes then weigh one
    half, so that one half is where the probability decides.
    """
    weights = []
    for place in range(len(DIMENSIONS)):
        labels = [example.labels[place] for group in groups for example in group]
        known = sum(label is not None for label in labels)
        counts = [sum(label is wanted for label in labels) for wanted in (False, True)]
        harmed, whole = (known / (2 * count) if count else 0.0 for count in counts)
        weights.append((harmed, whole))
    return weights
