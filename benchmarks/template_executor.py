"""An executor and a reviewer without a model, for experiments and tests.

It imitates a small model on the primer's closed world, its faults included, because what an
instructor must learn is where each operation works and what it is worth. The safest operation soon
repeats itself, and the one that brings something new fails at times:

- `breadth` writes another instruction of the primer; one time in five it repeats the text instead;
- `constraints` adds a rule of a kind that is not there yet, of seven, and always can;
- `deepening` adds a clause, once; then it repeats the text;
- `concretizing` describes a bare thing more closely; without one, it repeats the text;
- `reasoning` adds a step to an instruction that counts or sorts; it declines others;
- `complicate_input` adds a list, once; then it leaks its prompt.

So this world has the trap that the guard is for, by construction: what an experiment in it shows is
the mechanism, not the size of an effect on a model. A rewrite is a function of text, operation,
place (seed, episode, step) and run seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random

from refine_dagster.offline.language_families import REWRITES
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.offline.world import article, draw, pick, whole, world
from refine_dagster.seeding import request_seed
from refine_dagster.teams_rl.chain import Chain, Execution, Review
from refine_dagster.teams_rl.elimination import Rewrite, sameness
from refine_dagster.teams_rl.operations import Operation, one_line

DECLINED = "Sorry, this instruction has no steps that could be added to."
LEAK = "Rewritten instruction:"
# Share of breadth's requests at which the text comes back as it was.
ECHO_SHARE = 0.2
# Primer tasks among which breadth looks for one of the same topic.
BREADTH_DRAWS = 6
_WORD = re.compile(r"[a-z]+")
_COUNTS = re.compile(
    r"\b(?:add|count|sum|how many|sort|multiply|number|numbers|largest|smallest|longest|shortest|"
    r"plus|minus|half|reverse|order|first|last)\b",
    re.IGNORECASE,
)
# A bare thing: an article and a noun of the world, with no adjective between.
_BARE = re.compile(r"\b(?:a|an|the)\s+([a-z]+)\b")


class RuleReviewer:
    """Decides by overlap of words alone (implements `chain.Reviewer`).

    Args:
        different_below: highest overlap (Jaccard, stop words left out) that counts as different;
            at the default one new word is enough, as reviewing models have it.
    """

    def __init__(self, different_below: float = 0.99) -> None:
        self._different_below = different_below

    def review(self, rewrites: Sequence[Rewrite]) -> list[Review]:
        """No model is asked."""
        return [
            Review(sameness(rewrite, self._different_below) == "different") for rewrite in rewrites
        ]


class TemplateExecutor:
    """Rewrites by templates (implements `chain.Executor`).

    Args:
        run seed: seeds the choice of words.
    """

    def __init__(self, run_seed: str) -> None:
        self._run_seed = run_seed

    def execute(self, chains: Sequence[Chain], operations: Sequence[Operation]) -> list[Execution]:
        """Rewrites in order; no request is made."""
        return [
            Execution(self._rewrite(chain, operation.name))
            for chain, operation in zip(chains, operations, strict=True)
        ]

    def _rewrite(self, chain: Chain, name: str) -> str:
        random = Random(
            request_seed(
                self._run_seed,
                "template",
                name,
                chain.seed_id,
                chain.episode,
                chain.step,
                chain.text,
            )
        )
        return _REWRITES[name](chain.text, random)


def _breadth(text: str, random: Random) -> str:
    if random.random() < ECHO_SHARE:
        return text
    drawn = [
        task.example.instruction
        for task in primer_tasks(BREADTH_DRAWS, random.getrandbits(32))
        if task.family not in REWRITES
    ]
    topic = _topic(text)
    near = [instruction for instruction in drawn if _topic(instruction) == topic]
    rare = pick(random, world().lines["rare"]).format(
        other=article(pick(random, world().topics[topic])),
        plural=world().plural(pick(random, world().topics[topic])),
    )
    return one_line([*near, *drawn, rare][0])


def _constraints(text: str, random: Random) -> str:
    new = [rule for rule in world().lines["rules"] if rule.split("{")[0] not in text]
    rule = pick(random, new or world().lines["rules"]).format(
        n=whole(random, 5, 12),
        word=pick(random, world().topics[_topic(text)]),
        colour=pick(random, world().kinds["colour"]),
    )
    return f"{text} {rule}"


def _deepening(text: str, random: Random) -> str:
    if re.search(r" and (?:explain|say|tell|compare|give)\b", text):
        return text
    other = article(pick(random, world().topics[_topic(text)]))
    return _before_stop(text, f" {pick(random, world().lines['depths']).format(other=other)}")


def _concretizing(text: str, random: Random) -> str:
    for found in _BARE.finditer(text):
        if found[1] in _topics_of_things():
            adjective = pick(random, world().lines["adjectives"])
            spot = pick(random, world().lines["spots"])
            exact = pick(
                random, [f"{article(adjective)} {found[1]}", f"{article(found[1])} {spot}"]
            )
            if not text[found.end() :].startswith(f" {spot.split()[0]}"):
                return text[: found.start()] + exact + text[found.end() :]
    return text


def _reasoning(text: str, random: Random) -> str:
    if not _COUNTS.search(text):
        return DECLINED
    step = pick(random, world().lines["steps"]).format(n=whole(random, 2, 9))
    return text if step in text else _before_stop(text, f", {step}")


def _complicate_input(text: str, random: Random) -> str:
    if ":" in text:
        return f"{LEAK} {text}"
    if pick(random, [True, False]):
        data = draw(random, world().topics[_topic(text)], whole(random, 3, 5))
        return f"{text} Use these words: {', '.join(data)}."
    numbers = draw(random, range(1, 31), whole(random, 3, 5))
    return f"{text} Use these numbers: {', '.join(str(number) for number in numbers)}."


_REWRITES: dict[str, Callable[[str, Random], str]] = {
    "breadth": _breadth,
    "constraints": _constraints,
    "deepening": _deepening,
    "concretizing": _concretizing,
    "reasoning": _reasoning,
    "complicate_input": _complicate_input,
}


@lru_cache(maxsize=1)
def _topics_of_things() -> dict[str, str]:
    """Thing, plural or topic -> topic."""
    found: dict[str, str] = {}
    for topic, thing in world().things():
        found |= {thing: topic, world().plural(thing): topic}
    return found | {topic: topic for topic in world().topics}


def _topic(text: str) -> str:
    """The topic of the first thing that is named; some topic, by the text, where none is."""
    topics = _topics_of_things()
    for word in _WORD.findall(text.lower()):
        if word in topics:
            return topics[word]
    names = list(world().topics)
    return names[request_seed("topic", text) % len(names)]


def _before_stop(text: str, addition: str) -> str:
    """The text with an addition before the stop of its first sentence."""
    found = re.search(r"[.?!](?=\s|$)", text)
    if found is None:
        return text + addition
    return text[: found.start()] + addition + text[found.start() :]
