"""The primer's families whose answer follows from a rule: words, lists, numbers.

A family is a function of a random stream that returns a `Draft`: the slots of an instruction
template, the input, and the correct output. The wording of instructions is in
`primer_templates.yaml`, so that new phrasings need no code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from refine_dagster.offline.world import Draft, Family, article, draw, pick, whole, world

JOINERS = (("commas", ", "), ("the word and", " and "), ("dashes", " - "), ("plus signs", " + "))


def _words(random: Random, least: int = 3, most: int = 4) -> tuple[str, list[str]]:
    topic = pick(random, list(world().topics))
    return topic, draw(random, world().topics[topic], whole(random, least, most))


def _of_words(answer: Callable[[list[str]], str], least: int = 3, most: int = 4) -> Family:
    """A family whose answer is a function of words of one topic."""

    def family(random: Random) -> Draft:
        topic, words = _words(random, least, most)
        return Draft(answer(words), ", ".join(words), world().topic_slots(topic))

    return family


def _pick_word(random: Random) -> Draft:
    which = pick(random, ["first", "last", "second", "longest", "shortest"])
    topic, words = _words(random)
    sizes = sorted(len(word) for word in words)
    while sizes[0] == sizes[1] or sizes[-1] == sizes[-2]:
        topic, words = _words(random)
        sizes = sorted(len(word) for word in words)
    answer = {
        "first": words[0],
        "last": words[-1],
        "second": words[1],
        "longest": max(words, key=len),
        "shortest": min(words, key=len),
    }[which]
    return Draft(answer, ", ".join(words), {"which": which, **world().topic_slots(topic)})


def _remove_word(random: Random) -> Draft:
    topic, words = _words(random)
    word = pick(random, words)
    rest = [other for other in words if other != word]
    return Draft(", ".join(rest), ", ".join(words), {"word": word, **world().topic_slots(topic)})


def _add_word(*, in_front: bool) -> Family:
    def family(random: Random) -> Draft:
        topic, (word, *words) = _words(random, 4, 5)
        grown = [word, *words] if in_front else [*words, word]
        slots = {"word": word, **world().topic_slots(topic)}
        return Draft(", ".join(grown), ", ".join(words), slots)

    return family


def _join_words(random: Random) -> Draft:
    topic, words = _words(random)
    joiner, separator = pick(random, JOINERS)
    slots = {"joiner": joiner, **world().topic_slots(topic)}
    return Draft(separator.join(words), " ".join(words), slots)


def _plural(random: Random) -> Draft:
    nouns = [thing for _, thing in world().things()]
    noun = pick(random, [*nouns, *world().plain_nouns, *world().irregular_plurals])
    while world().plural(noun) == noun:
        noun = pick(random, nouns)
    return Draft(world().plural(noun), noun)


def _opposite(random: Random) -> Draft:
    first, second = draw(random, pick(random, world().opposites), 2)
    return Draft(second, first)


def _numbers(random: Random, least: int = 3, most: int = 4, top: int = 20) -> list[int]:
    return draw(random, range(1, top + 1), whole(random, least, most))


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _extreme(random: Random) -> Draft:
    numbers = _numbers(random)
    which = pick(random, ["largest", "smallest"])
    answer = max(numbers) if which == "largest" else min(numbers)
    return Draft(str(answer), _listed(numbers), {"which": which})


def _of_numbers(answer: Callable[[list[int]], int], least: int, most: int, top: int = 20) -> Family:
    def family(random: Random) -> Draft:
        numbers = _numbers(random, least, most, top)
        return Draft(str(answer(numbers)), _listed(numbers))

    return family


def _sort_numbers(random: Random) -> Draft:
    numbers = _numbers(random)
    order = pick(random, ["small to large", "large to small", "low to high", "high to low"])
    ordered = sorted(numbers, reverse=order in ("large to small", "high to low"))
    return Draft(_listed(ordered), _listed(numbers), {"order": order})


def _odd_one_out(random: Random) -> Draft:
    kind, other = draw(random, list(world().kinds), 2)
    while {kind, other} == {"animal", "bird"}:
        kind, other = draw(random, list(world().kinds), 2)
    odd = pick(random, world().kinds[other])
    words = draw(random, [*draw(random, world().kinds[kind], 3), odd], 4)
    return Draft(odd, ", ".join(words), {"a_kind": article(kind)})


def _duplicates(random: Random) -> Draft:
    topic, words = _words(random, 2, 3)
    repeated = [*words, pick(random, words)]
    listed = draw(random, repeated, len(repeated))
    return Draft(", ".join(dict.fromkeys(listed)), ", ".join(listed), world().topic_slots(topic))


def _two_numbers(first: int, second: int, answer: int) -> Draft:
    return Draft(str(answer), f"{first} and {second}", {"a": str(first), "b": str(second)})


def _add(random: Random) -> Draft:
    first, second = whole(random, 1, 20), whole(random, 1, 20)
    return _two_numbers(first, second, first + second)


def _subtract(random: Random) -> Draft:
    first = whole(random, 2, 20)
    second = whole(random, 1, first - 1)
    return _two_numbers(first, second, first - second)


def _multiply(random: Random) -> Draft:
    first, second = whole(random, 2, 9), whole(random, 2, 9)
    return _two_numbers(first, second, first * second)


def _word_problem(random: Random) -> Draft:
    person, giver = draw(random, world().lines["people"], 2)
    things = world().plural(pick(random, world().lines["owned"]))
    more = whole(random, 1, 3) < 3
    first, second = whole(random, 4, 12), whole(random, 2, 3)
    story = pick(random, [f"gets {second} more", f"buys {second} more", f"finds {second} more"])
    if not more:
        story = pick(random, [f"gives {second} to {giver}", f"loses {second}", f"sells {second}"])
    text = f"{person} has {first} {things} and {story}. How many {things} does {person} have now?"
    return Draft(str(first + second if more else first - second), text)


def _even_or_odd(random: Random) -> Draft:
    number = whole(random, 1, 40)
    return Draft("odd" if number % 2 else "even", str(number))


def _compare(random: Random) -> Draft:
    first, second = draw(random, range(1, 31), 2)
    slots = {"a": str(first), "b": str(second)}
    return Draft("larger" if first > second else "smaller", f"{first} and {second}", slots)


RULE_FAMILIES: Mapping[str, Family] = {
    "reverse_words": _of_words(lambda words: ", ".join(reversed(words))),
    "sort_words": _of_words(lambda words: ", ".join(sorted(words))),
    "pick_word": _pick_word,
    "count_words": _of_words(lambda words: str(len(words)), 2, 6),
    "remove_word": _remove_word,
    "add_word": _add_word(in_front=False),
    "front_word": _add_word(in_front=True),
    "twice": _of_words(lambda words: ", ".join([*words, *words]), 2, 3),
    "join_words": _join_words,
    "plural": _plural,
    "opposite": _opposite,
    "capitals": _of_words(lambda words: words[0].upper(), 1, 1),
    "extreme": _extreme,
    "sum_numbers": _of_numbers(sum, 3, 3, top=9),
    "count_numbers": _of_numbers(len, 2, 6),
    "sort_numbers": _sort_numbers,
    "odd_one_out": _odd_one_out,
    "duplicates": _duplicates,
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "word_problem": _word_problem,
    "even_or_odd": _even_or_odd,
    "even_or_odd_count": _of_words(lambda words: "odd" if len(words) % 2 else "even", 2, 5),
    "compare": _compare,
}
