"""The primer's rewrites: an instruction in, an instruction out, for TeaMs-RL's six operations.

They teach the offline base model to evolve instructions (docs/methods.md, section 5.1). Each family
draws an instruction of the closed world as the input and writes the rewritten one as the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from refine_dagster.offline.world import Draft, Family, article, draw, pick, whole, world

WRITING = (
    "Write a sentence about {it}.",
    "Describe {it} in one sentence.",
    "Tell a short story about {it}.",
    "Write two sentences about {it}.",
    "Give me a tip about {it}.",
    "Make a slogan for {it}.",
    "Explain something about {it}.",
)
RARE = (
    "Write a riddle whose answer is {other}.",
    "Invent a holiday for {plural} and name it.",
    "Imagine that {other} can talk. Write its first words.",
    "Write a thank you note to {other}.",
    "Name three things that {other} would never say.",
    "Think of a secret that {other} keeps.",
    "Write a weather report for {plural}.",
    "Suggest a funny name for {other}.",
)
RULES = (
    "Use at most {n} words.",
    "Do not use the word {word}.",
    "Begin with the word {word}.",
    "End with a question.",
    "Write it for a young child.",
    "Mention the colour {colour}.",
    "Use the word {word} twice.",
)
DEPTHS = (
    "and explain why it matters",
    "and say what would happen without it",
    "and tell how it changes over a year",
    "and compare it with {other}",
    "and give one reason for your choice",
    "and say how people feel about it",
)
COUNTED = (
    "Count the words in the list.",
    "Add the two numbers.",
    "Find the sum of the numbers.",
    "Find the largest number.",
    "Find the smallest number in the list.",
    "Multiply the two numbers.",
)
STEPS = (
    "then add {n} to the result",
    "then multiply the result by {n}",
    "then say if the result is even or odd",
    "then compare the result with {n}",
    "then explain each step",
)
# An instruction without data, and the same instruction with a list of words in it.
WORD_DATA = (
    ("Sort some words from A to Z.", "Sort these words from A to Z: {words}."),
    ("Count the words in a list.", "Count the words in this list: {words}."),
    ("Find the longest word.", "Find the longest word of {words}."),
    ("Reverse the order of some words.", "Reverse the order of these words: {words}."),
    ("Name the last word of a list.", "Name the last word of this list: {words}."),
)
NUMBER_DATA = (
    ("Add two numbers.", "Add the numbers {numbers}."),
    ("Find the largest number.", "Find the largest number in this list: {numbers}."),
    ("Sort some numbers.", "Sort these numbers from small to large: {numbers}."),
    ("Count the numbers in a list.", "Count the numbers in this list: {numbers}."),
)


def _things(random: Random) -> tuple[str, str, str]:
    topic = pick(random, list(world().topics))
    thing, other = draw(random, world().topics[topic], 2)
    return topic, thing, other


def _writing(random: Random) -> tuple[str, str]:
    """A writing instruction and another thing of its topic."""
    topic, thing, other = _things(random)
    it = pick(random, [world().topic_slots(topic)["the_topic"], article(thing), article(thing)])
    return pick(random, WRITING).format(it=it), other


def _breadth(random: Random) -> Draft:
    base, other = _writing(random)
    rare = pick(random, RARE).format(other=article(other), plural=world().plural(other))
    return Draft(rare, base)


def _constraints(random: Random) -> Draft:
    base, other = _writing(random)
    rule = pick(random, RULES).format(
        n=whole(random, 5, 12), word=other, colour=pick(random, world().kinds["colour"])
    )
    return Draft(f"{base} {rule}", base)


def _deepening(random: Random) -> Draft:
    base, other = _writing(random)
    return Draft(f"{base[:-1]} {pick(random, DEPTHS).format(other=article(other))}.", base)


def _concretizing(random: Random) -> Draft:
    topic, thing, _ = _things(random)
    general = world().topic_slots(topic)["the_topic"]
    template = pick(random, WRITING)
    adjective = pick(random, world().lines["adjectives"])
    spot = pick(random, world().lines["spots"])
    exact = pick(random, [f"{article(adjective)} {thing}", f"{article(thing)} {spot}"])
    return Draft(template.format(it=exact), template.format(it=general))


def _reasoning(random: Random) -> Draft:
    base = pick(random, COUNTED)
    step = pick(random, STEPS).format(n=whole(random, 2, 9))
    return Draft(f"{base[:-1]}, {step}.", base)


def _complicate_input(random: Random) -> Draft:
    if pick(random, [True, False]):
        base, harder = pick(random, WORD_DATA)
        topic = pick(random, list(world().topics))
        words = ", ".join(draw(random, world().topics[topic], whole(random, 3, 5)))
        return Draft(harder.format(words=words), base)
    base, harder = pick(random, NUMBER_DATA)
    numbers = draw(random, range(1, 31), whole(random, 3, 5))
    return Draft(harder.format(numbers=", ".join(map(str, numbers))), base)


REWRITES: Mapping[str, Family] = {
    "breadth": _breadth,
    "constraints": _constraints,
    "deepening": _deepening,
    "concretizing": _concretizing,
    "reasoning": _reasoning,
    "complicate_input": _complicate_input,
}
