"""The primer's families whose answer is language: facts, writing, labels and edits.

Answers come from the facts and sentences of `primer_words.yaml`, so each is right. The form of a
family is that of `primer_rules.py`.

The primer's families whose answer follows from a rule: words, lists, numbers.

A family is a function of a private random stream; it returns a `Draft`: what fills the slots of an
instruction template, what the input is, and the correct output. The wording of instructions is in
`primer_templates.yaml`, so that new phrasings need no code.

The primer's rewrites: an instruction in, an instruction out, for TeaMs-RL's six operations.

The base model of the offline profile must be able to evolve instructions (methods C): breadth, add
constraints, deepening, concretizing, increase reasoning steps, complicate input. Each family draws
an instruction of the closed world as the input and writes the rewritten one as the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from refine_dagster.offline.world import Draft, Family, article, draw, pick, whole, world


def _fact(table: Mapping[str, str]) -> Family:
    def family(random: Random) -> Draft:
        thing = pick(random, list(table))
        return Draft(table[thing], thing, {"a_x": article(thing)})

    return family


def _kind(random: Random) -> Draft:
    kind = pick(random, list(world().kinds))
    word = pick(random, world().kinds[kind])
    return Draft(kind, word)


def _about(random: Random) -> tuple[str, str, str]:
    topic = pick(random, list(world().topics))
    thing = pick(random, world().topics[topic])
    template = pick(random, world().by_topic["sentences"][topic])
    return topic, thing, template.format(thing=thing, a_thing=article(thing))


def _write_sentence(random: Random) -> Draft:
    topic, thing, sentence = _about(random)
    return Draft(
        sentence, thing, {**world().topic_slots(topic), "thing": thing, "a_thing": article(thing)}
    )


def _write_two(random: Random) -> Draft:
    topic, thing, sentence = _about(random)
    second = pick(random, world().by_topic["second_sentences"][topic])
    slots = {**world().topic_slots(topic), "thing": thing, "a_thing": article(thing)}
    return Draft(f"{sentence} {second}", topic, slots)


def _greeting(random: Random) -> Draft:
    occasion = pick(random, list(world().by_topic["greetings"]))
    person = pick(random, world().lines["people"])
    opening, wish = world().by_topic["greetings"][occasion]
    slots = {
        "occasion": occasion,
        "person": person,
        "listener": pick(random, world().lines["listeners"]),
    }
    return Draft(f"{opening}, {person}! {wish}.", person, slots)


def _line_about(section: str) -> Family:
    def family(random: Random) -> Draft:
        topic = pick(random, list(world().topics))
        line = pick(random, world().by_topic[section][topic])
        listener = pick(random, world().lines["listeners"])
        return Draft(line, topic, {**world().topic_slots(topic), "listener": listener})

    return family


def _list_three(random: Random) -> Draft:
    kind = pick(random, list(world().kinds))
    first, second, third = draw(random, world().kinds[kind], 3)
    slots = {"kinds": world().plural(kind), "a_kind": article(kind)}
    return Draft(f"{first}, {second} and {third}", kind, slots)


def _sentiment(random: Random) -> Draft:
    label, phrases, tails = pick(
        random, [("positive", "good", "good_tails"), ("negative", "bad", "bad_tails")]
    )
    subject = pick(random, world().lines["subjects"])
    text = f"The {subject} {pick(random, world().lines[phrases])}."
    if pick(random, [True, False]):
        text = f"{text} {pick(random, world().lines[tails])}"
    return Draft(label, text, {"subject": subject})


def _topic_label(random: Random) -> Draft:
    topic, _, sentence = _about(random)
    other = pick(random, [name for name in world().topics if name != topic])
    while {topic, other} in ({"animals", "sea"}, {"travel", "sea"}, {"food", "garden"}):
        other = pick(random, [name for name in world().topics if name != topic])
    first, second = draw(random, [topic, other], 2)
    return Draft(topic, sentence, {"choice": f"{first} or {second}"})


def _yes_no(random: Random) -> Draft:
    yes = pick(random, [True, False])
    about = pick(random, ["kind", "colour", "sound"])
    if about == "kind":
        kind = pick(random, list(world().kinds))
        word = pick(random, world().kinds[kind])
        others = [name for name in world().kinds if {name, kind} != {"animal", "bird"}]
        asked = kind if yes else pick(random, [name for name in others if name != kind])
        named = "a fruit" if asked == "fruit" else article(asked)
        subject = word if kind in ("sport", "colour") else article(word)
        text = f"Is {subject} {named}?"
    elif about == "colour":
        thing = pick(random, list(world().colours))
        colour = world().colours[thing] if yes else pick(random, world().false_colours)
        text = f"Is {article(thing)} {colour}?"
    else:
        animal = pick(random, list(world().sounds))
        sound = world().sounds[animal]
        sounds = [other for other in world().sounds.values() if other != sound]
        text = f"Does {article(animal)} {sound if yes else pick(random, sounds)}?"
    return Draft("yes" if yes else "no", text)


def _question_or_statement(random: Random) -> Draft:
    question, statement = _state(random)
    asked = pick(random, [True, False])
    return Draft("question" if asked else "statement", question if asked else statement)


def _past_tense(random: Random) -> Draft:
    present, past = pick(random, world().past)
    subject = pick(random, ["I", "We", "They", "You"])
    return Draft(f"{subject} {past}.", f"{subject} {present}.")


def _polite(random: Random) -> Draft:
    command = pick(random, world().lines["commands"])
    return Draft(f"Could you {command}, please?", f"{command[0].upper()}{command[1:]}.")


def _state(random: Random) -> tuple[str, str]:
    _, thing = pick(random, world().things())
    rest = pick(random, [*world().lines["states"], *world().lines["spots"]])
    return f"Is the {thing} {rest}?", f"The {thing} is {rest}."


def _exclaim(random: Random) -> Draft:
    statement = _about(random)[2] if pick(random, [True, False]) else _state(random)[1]
    return Draft(f"{statement[:-1]}!", statement)


def _begin(random: Random) -> Draft:
    _, statement = _state(random)
    word = pick(random, ["today", "now", "maybe", "often"])
    return Draft(
        f"{word.capitalize()} {statement[0].lower()}{statement[1:]}", statement, {"word": word}
    )


def _shorten(random: Random) -> Draft:
    _, thing = pick(random, world().things())
    adjectives = draw(random, world().lines["adjectives"], 2)
    spot = pick(random, world().lines["spots"])
    return Draft(
        f"The {thing} is {spot}.", f"The very {' '.join(adjectives)} {thing} is {spot} now."
    )


def _question_to_statement(random: Random) -> Draft:
    question, statement = _state(random)
    return Draft(statement, question)


def _fix_capitals(random: Random) -> Draft:
    person, city = pick(random, world().lines["people"]), pick(random, world().lines["cities"])
    verb = pick(random, ["lives in", "works in", "travels to", "loves"])
    thing = article(pick(random, world().things())[1])
    text = pick(
        random, [f"{person} {verb} {city}.", f"{person} has {thing}.", f"We saw {thing} in {city}."]
    )
    return Draft(text, text.lower())


LANGUAGE_FAMILIES: Mapping[str, Family] = {
    "colour": _fact(world().colours),
    "place": _fact(world().places),
    "sound": _fact(world().sounds),
    "use": _fact(world().uses),
    "kind": _kind,
    "write_sentence": _write_sentence,
    "write_two": _write_two,
    "greeting": _greeting,
    "slogan": _line_about("slogans"),
    "tip": _line_about("tips"),
    "list_three": _list_three,
    "sentiment": _sentiment,
    "topic_label": _topic_label,
    "yes_no": _yes_no,
    "question_or_statement": _question_or_statement,
    "past_tense": _past_tense,
    "polite": _polite,
    "exclaim": _exclaim,
    "begin": _begin,
    "shorten": _shorten,
    "question_to_statement": _question_to_statement,
    "fix_capitals": _fix_capitals,
}


def _words(random: Random, least: int = 3, most: int = 4) -> tuple[str, list[str]]:
    topic = pick(random, list(world().topics))
    return topic, draw(random, world().topics[topic], whole(random, least, most))


def _word_task(
    random: Random, answer: Callable[[list[str]], str], least: int = 3, most: int = 4
) -> Draft:
    topic, words = _words(random, least, most)
    return Draft(answer(words), ", ".join(words), world().topic_slots(topic))


def _reverse_words(random: Random) -> Draft:
    return _word_task(random, lambda words: ", ".join(reversed(words)))


def _sort_words(random: Random) -> Draft:
    return _word_task(random, lambda words: ", ".join(sorted(words)))


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


def _count_words(random: Random) -> Draft:
    return _word_task(random, lambda words: str(len(words)), least=2, most=6)


def _remove_word(random: Random) -> Draft:
    topic, words = _words(random)
    word = pick(random, words)
    rest = [other for other in words if other != word]
    return Draft(", ".join(rest), ", ".join(words), {"word": word, **world().topic_slots(topic)})


def _grow(place: int) -> Family:
    def family(random: Random) -> Draft:
        topic, words = _words(random, 4, 5)
        word, *words = words
        grown = [*words, word] if place else [word, *words]
        slots = {"word": word, **world().topic_slots(topic)}
        return Draft(", ".join(grown), ", ".join(words), slots)

    return family


def _twice(random: Random) -> Draft:
    return _word_task(random, lambda words: ", ".join([*words, *words]), least=2, most=3)


def _join_words(random: Random) -> Draft:
    topic, words = _words(random)
    joiner, glue = pick(
        random,
        [("commas", ", "), ("the word and", " and "), ("dashes", " - "), ("plus signs", " + ")],
    )
    return Draft(
        glue.join(words), " ".join(words), {"joiner": joiner, **world().topic_slots(topic)}
    )


def _plural(random: Random) -> Draft:
    nouns = [thing for _, thing in world().things()]
    noun = pick(random, [*nouns, *world().plain_nouns, *world().irregular_plurals])
    while world().plural(noun) == noun:
        noun = pick(random, nouns)
    return Draft(world().plural(noun), noun)


def _opposite(random: Random) -> Draft:
    first, second = draw(random, pick(random, world().opposites), 2)
    return Draft(second, first)


def _capitals(random: Random) -> Draft:
    return _word_task(random, lambda words: words[0].upper(), least=1, most=1)


def _numbers(random: Random, least: int = 3, most: int = 4, top: int = 20) -> list[int]:
    return draw(random, range(1, top + 1), whole(random, least, most))


def _listed(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _extreme(random: Random) -> Draft:
    numbers = _numbers(random)
    which = pick(random, ["largest", "smallest"])
    answer = max(numbers) if which == "largest" else min(numbers)
    return Draft(str(answer), _listed(numbers), {"which": which})


def _sum_numbers(random: Random) -> Draft:
    numbers = _numbers(random, least=3, most=3, top=9)
    return Draft(str(sum(numbers)), _listed(numbers))


def _count_numbers(random: Random) -> Draft:
    numbers = _numbers(random, least=2, most=6)
    return Draft(str(len(numbers)), _listed(numbers))


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


def _even_or_odd_count(random: Random) -> Draft:
    return _word_task(random, lambda words: "odd" if len(words) % 2 else "even", 2, 5)


def _compare(random: Random) -> Draft:
    first, second = draw(random, range(1, 31), 2)
    slots = {"a": str(first), "b": str(second)}
    return Draft("larger" if first > second else "smaller", f"{first} and {second}", slots)


RULE_FAMILIES: Mapping[str, Family] = {
    "reverse_words": _reverse_words,
    "sort_words": _sort_words,
    "pick_word": _pick_word,
    "count_words": _count_words,
    "remove_word": _remove_word,
    "add_word": _grow(-1),
    "front_word": _grow(0),
    "twice": _twice,
    "join_words": _join_words,
    "plural": _plural,
    "opposite": _opposite,
    "capitals": _capitals,
    "extreme": _extreme,
    "sum_numbers": _sum_numbers,
    "count_numbers": _count_numbers,
    "sort_numbers": _sort_numbers,
    "odd_one_out": _odd_one_out,
    "duplicates": _duplicates,
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "word_problem": _word_problem,
    "even_or_odd": _even_or_odd,
    "even_or_odd_count": _even_or_odd_count,
    "compare": _compare,
}


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
    return Draft(harder.format(numbers=", ".join(str(number) for number in numbers)), base)


REWRITES: Mapping[str, Family] = {
    "breadth": _breadth,
    "constraints": _constraints,
    "deepening": _deepening,
    "concretizing": _concretizing,
    "reasoning": _reasoning,
    "complicate_input": _complicate_input,
}
