"""The primer's families whose answer is language: facts, writing, labels, edits and rewrites.

Answers come from the facts and sentences of `primer_words.yaml`, so each is correct. The rewrites
teach the offline base model TeaMs-RL's six operations (docs/methods.md, section 5.1): an
instruction of the closed world in, the rewritten one out.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from refine_dagster.offline.world import Draft, Family, article, draw, pick, whole, world


def _line(random: Random, name: str) -> str:
    return pick(random, world().lines[name])


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


def _thing_slots(topic: str, thing: str) -> dict[str, str]:
    return {**world().topic_slots(topic), "thing": thing, "a_thing": article(thing)}


def _write_sentence(random: Random) -> Draft:
    topic, thing, sentence = _about(random)
    return Draft(sentence, thing, _thing_slots(topic, thing))


def _write_two(random: Random) -> Draft:
    topic, thing, sentence = _about(random)
    second = pick(random, world().by_topic["second_sentences"][topic])
    return Draft(f"{sentence} {second}", topic, _thing_slots(topic, thing))


def _greeting(random: Random) -> Draft:
    occasion = pick(random, list(world().by_topic["greetings"]))
    person = _line(random, "people")
    opening, wish = world().by_topic["greetings"][occasion]
    listener = _line(random, "listeners")
    slots = {"occasion": occasion, "person": person, "listener": listener}
    return Draft(f"{opening}, {person}! {wish}.", person, slots)


def _line_about(section: str) -> Family:
    def family(random: Random) -> Draft:
        topic = pick(random, list(world().topics))
        line = pick(random, world().by_topic[section][topic])
        listener = _line(random, "listeners")
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
    subject = _line(random, "subjects")
    text = f"The {subject} {_line(random, phrases)}."
    if pick(random, [True, False]):
        text = f"{text} {_line(random, tails)}"
    return Draft(label, text, {"subject": subject})


def _topic_label(random: Random) -> Draft:
    topic, _, sentence = _about(random)
    others = [name for name in world().topics if name != topic]
    other = pick(random, others)
    while {topic, other} in ({"animals", "sea"}, {"travel", "sea"}, {"food", "garden"}):
        other = pick(random, others)
    first, second = draw(random, [topic, other], 2)
    return Draft(topic, sentence, {"choice": f"{first} or {second}"})


def _yes_no(random: Random) -> Draft:
    yes = pick(random, [True, False])
    about = pick(random, ["kind", "colour", "sound"])
    if about == "kind":
        kind = pick(random, list(world().kinds))
        word = pick(random, world().kinds[kind])
        others = [name for name in world().kinds if {name, kind} != {"animal", "bird"}]
        guess = kind if yes else pick(random, [name for name in others if name != kind])
        subject = word if kind in ("sport", "colour") else article(word)
        text = f"Is {subject} {article(guess)}?"
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
    label, text = pick(random, [("question", question), ("statement", statement)])
    return Draft(label, text)


def _past_tense(random: Random) -> Draft:
    present, past = pick(random, world().past)
    subject = pick(random, ["I", "We", "They", "You"])
    return Draft(f"{subject} {past}.", f"{subject} {present}.")


def _polite(random: Random) -> Draft:
    command = _line(random, "commands")
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
    changed = f"{word.capitalize()} {statement[0].lower()}{statement[1:]}"
    return Draft(changed, statement, {"word": word})


def _shorten(random: Random) -> Draft:
    _, thing = pick(random, world().things())
    adjectives = draw(random, world().lines["adjectives"], 2)
    spot = _line(random, "spots")
    long = f"The very {' '.join(adjectives)} {thing} is {spot} now."
    return Draft(f"The {thing} is {spot}.", long)


def _question_to_statement(random: Random) -> Draft:
    question, statement = _state(random)
    return Draft(statement, question)


def _fix_capitals(random: Random) -> Draft:
    person, city = _line(random, "people"), _line(random, "cities")
    verb = pick(random, ["lives in", "works in", "travels to", "loves"])
    thing = article(pick(random, world().things())[1])
    texts = [f"{person} {verb} {city}.", f"{person} has {thing}.", f"We saw {thing} in {city}."]
    text = pick(random, texts)
    return Draft(text, text.lower())


def _things(random: Random) -> tuple[str, str, str]:
    topic = pick(random, list(world().topics))
    thing, other = draw(random, world().topics[topic], 2)
    return topic, thing, other


def _writing(random: Random) -> tuple[str, str]:
    """A writing instruction and another thing of its topic."""
    topic, thing, other = _things(random)
    it = pick(random, [world().topic_slots(topic)["the_topic"], article(thing), article(thing)])
    return _line(random, "writing").format(it=it), other


def _breadth(random: Random) -> Draft:
    base, other = _writing(random)
    rare = _line(random, "rare").format(other=article(other), plural=world().plural(other))
    return Draft(rare, base)


def _constraints(random: Random) -> Draft:
    base, other = _writing(random)
    rule = _line(random, "rules").format(
        n=whole(random, 5, 12), word=other, colour=pick(random, world().kinds["colour"])
    )
    return Draft(f"{base} {rule}", base)


def _deepening(random: Random) -> Draft:
    base, other = _writing(random)
    depth = _line(random, "depths").format(other=article(other))
    return Draft(f"{base[:-1]} {depth}.", base)


def _concretizing(random: Random) -> Draft:
    topic, thing, _ = _things(random)
    general = world().topic_slots(topic)["the_topic"]
    template = _line(random, "writing")
    adjective = _line(random, "adjectives")
    spot = _line(random, "spots")
    exact = pick(random, [f"{article(adjective)} {thing}", f"{article(thing)} {spot}"])
    return Draft(template.format(it=exact), template.format(it=general))


def _reasoning(random: Random) -> Draft:
    base = _line(random, "counted")
    step = _line(random, "steps").format(n=whole(random, 2, 9))
    return Draft(f"{base[:-1]}, {step}.", base)


def _complicate_input(random: Random) -> Draft:
    if pick(random, [True, False]):
        base, harder = pick(random, world().word_data)
        topic = pick(random, list(world().topics))
        words = ", ".join(draw(random, world().topics[topic], whole(random, 3, 5)))
        return Draft(harder.format(words=words), base)
    base, harder = pick(random, world().number_data)
    numbers = draw(random, range(1, 31), whole(random, 3, 5))
    return Draft(harder.format(numbers=", ".join(map(str, numbers))), base)


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

REWRITES: Mapping[str, Family] = {
    "breadth": _breadth,
    "constraints": _constraints,
    "deepening": _deepening,
    "concretizing": _concretizing,
    "reasoning": _reasoning,
    "complicate_input": _complicate_input,
}
