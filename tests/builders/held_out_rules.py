"""The answers of the packaged held-out tasks, computed from their inputs.

A rule is named after its task's file, without the number. The facts are those of the primer's
world, which the offline base model learns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from math import prod

from refine_dagster.offline.world import article, world

Rule = Callable[[str], str]


def _listed(text: str) -> list[str]:
    return text.split(", ")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _kind_stranger(text: str) -> str:
    kinds = {word: kind for kind, words in world().kinds.items() for word in words}
    counts = Counter(kinds[word] for word in _listed(text))
    return next(word for word in _listed(text) if counts[kinds[word]] == 1)


def _story(text: str) -> str:
    first, second = _numbers(text)
    return str(first + second if re.search(r"(gets|buys|finds) \d+ more", text) else first - second)


def _opposite(word: str) -> str:
    pairs = [set(pair) for pair in world().opposites if word in pair]
    assert len(pairs) == 1, word
    return next(iter(pairs[0] - {word}))


def _shared(text: str) -> str:
    left, right = (set(_listed(side)) for side in text.split(" / "))
    assert len(left & right) == 1, text
    return next(iter(left & right))


def _simple(text: str) -> str:
    return re.sub(r"^The very \w+ \w+ (\w+) is (.*) now\.$", r"The \1 is \2.", text)


def _data_sentence(text: str) -> str:
    return re.sub(r"^thing: (\w+); place: (.*)$", r"The \1 is \2.", text)


FIRST_RULES: Mapping[str, Rule] = {
    "backward_list": lambda text: ", ".join(_listed(text)[::-1]),
    "dictionary_order": lambda text: ", ".join(sorted(_listed(text))),
    "closing_word": lambda text: text.rsplit(", ", 1)[-1],
    "most_letters": lambda text: sorted(_listed(text), key=len)[-1],
    "how_long_is_the_list": lambda text: str(text.count(",") + 1),
    "contrary_meaning": _opposite,
    "more_than_one": lambda text: world().plural(text),
    "top_score": lambda text: str(sorted(_numbers(text))[-1]),
    "rising_row": lambda text: ", ".join(str(number) for number in sorted(_numbers(text))),
    "shopping_bill": lambda text: str(sum(_numbers(text))),
    "stranger_in_the_group": _kind_stranger,
    "no_word_twice": lambda text: ", ".join(sorted(set(_listed(text)), key=_listed(text).index)),
    "joined_groups": lambda text: str(sum(_numbers(text))),
    "stories_with_numbers": _story,
    "painting_things": lambda text: world().colours[text],
    "who_makes_this_noise": lambda text: next(
        animal for animal, sound in world().sounds.items() if sound == text
    ),
    "asking_or_telling": lambda text: "question" if text.endswith("?") else "statement",
    "friendlier_words": lambda text: f"Could you {text[0].lower()}{text[1:-1]}, please?",
    "answer_in_full": lambda text: re.sub(r"^Is the (\w+) (.*)\?$", r"The \1 is \2.", text),
    "span_of_numbers": lambda text: str(sorted(_numbers(text))[-1] - sorted(_numbers(text))[0]),
    "both_ends": lambda text: f"{_listed(text)[0]} and {_listed(text)[-1]}",
    "matching_pairs": lambda text: _opposite(text.split(" as ")[1].removesuffix(" is to")),
    "upside_down_alphabet": lambda text: ", ".join(sorted(_listed(text))[::-1]),
    "shared_word": _shared,
    "facts_into_sentence": _data_sentence,
    "fewer_details": _simple,
}


def _only(items: Iterable[str]) -> str:
    (item,) = items
    return item


def _ordered(words: Iterable[str]) -> str:
    return ", ".join(words)


def _kind(word: str) -> str:
    return _only(kind for kind, members in world().kinds.items() if word in members)


def _topic(sentence: str) -> str:
    return _only(
        {
            topic
            for topic, thing in world().things()
            for template in world().by_topic["sentences"][topic]
            if template.format(thing=thing, a_thing=article(thing)) == sentence
        }
    )


def _singulars(noun: str) -> set[str]:
    """The nouns of the world whose plural this is; none where it is no plural."""
    nouns = [thing for _, thing in world().things()]
    nouns += [*world().plain_nouns, *world().irregular_plurals]
    return {other for other in nouns if other != noun and world().plural(other) == noun}


def _has_colour(colour: str, things: str) -> str:
    return _only(thing for thing in things.split(" or ") if world().colours[thing] == colour)


def _swapped(words: list[str]) -> list[str]:
    return [words[-1], *words[1:-1], words[0]]


def _good(text: str) -> bool:
    """Whether a review is good; each has a phrase of exactly one of the two lists."""
    good, bad = (
        any(f" {phrase}." in text for phrase in world().lines[name]) for name in ("good", "bad")
    )
    assert good != bad, text
    return good


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _in_past(present: str) -> str:
    subject, verb = present.removesuffix(".").split(" ", 1)
    return f"Yesterday {subject.lower()} {dict(world().past)[verb]}."


def _tense(sentence: str) -> str:
    verb = sentence.removesuffix(".").split(" ", 1)[1]
    return _only(
        "present" if verb == present else "past"
        for present, past in world().past
        if verb in (present, past)
    )


def _pronoun(sentence: str) -> str:
    name, rest = sentence.split(" ", 1)
    return f"{'She' if name in ('Anna', 'Clara', 'Maria') else 'He'} {rest}"


def _plain(question: str) -> str:
    command = question.removeprefix("Could you ").removesuffix(", please?")
    return f"{command[0].upper()}{command[1:]}."


def _is_fact(sentence: str, verb: str, facts: Mapping[str, str]) -> bool:
    """Whether `A cow says moo.` is so."""
    _, thing, said, fact = sentence.removesuffix(".").split(" ")
    assert said == verb, sentence
    return facts[thing] == fact


def _joined(text: str) -> str:
    first, second = text.split(". ")
    return f"{first} and {second[0].lower()}{second[1:]}"


def _statement(thing: str, rest: str) -> str:
    return f"{article(thing).capitalize()} is {rest}."


MORE_RULES: Mapping[str, Rule] = {
    "opening_word": lambda text: _listed(text)[0],
    "fewer_letters_than_all": lambda text: min(_listed(text), key=len),
    "sky_without_cloud": lambda text: _ordered(w for w in _listed(text) if w != "cloud"),
    "book_at_the_end": lambda text: f"{text}, book",
    "sun_before_the_rest": lambda text: f"sun, {text}",
    "list_with_an_echo": lambda text: f"{text}, {text}",
    "line_of_ands": lambda text: " and ".join(text.split()),
    "nearest_to_the_letter_a": lambda text: sorted(_listed(text))[0],
    "word_in_the_middle": lambda text: _listed(text)[1],
    "ends_change_places": lambda text: _ordered(_swapped(_listed(text))),
    "only_one_of_them": lambda text: _only(_singulars(text)),
    "small_word_before_a_noun": article,
    "both_turned_around": lambda text: _ordered(map(_opposite, _listed(text))),
    "lowest_price": lambda text: str(min(_numbers(text))),
    "falling_row": lambda text: _ordered(map(str, sorted(_numbers(text), reverse=True))),
    "money_that_is_left": lambda text: str(_numbers(text)[0] - _numbers(text)[1]),
    "bags_of_apples": lambda text: str(prod(_numbers(text))),
    "animals_that_stay": lambda text: str(_numbers(text)[0] - _numbers(text)[1]),
    "next_in_the_row": lambda text: str(_numbers(text)[-1] + 1),
    "ten_more": lambda text: str(int(text) + 10),
    "two_things_to_pay": lambda text: str(sum(_numbers(text))),
    "only_the_animals": lambda text: _ordered(w for w in _listed(text) if _kind(w) == "animal"),
    "word_for_the_group": _kind,
    "voice_of_the_animal": lambda text: world().sounds[text],
    "thing_for_the_purpose": lambda text: next(t for t, use in world().uses.items() if use == text),
    "owner_of_the_colour": lambda text: _has_colour(*text.split(": ")),
    "colour_in_a_sentence": lambda text: _statement(text, world().colours[text]),
    "thing_and_its_kind": lambda text: _statement(text, article(_kind(text))),
    "advice_for_a_friend": lambda text: world().by_topic["tips"][text][0],
    "line_for_a_poster": lambda text: world().by_topic["slogans"][text][0],
    "thanks_for_a_gift": lambda text: re.sub(r"(\w+), (\w+)", r"Thank you for the \2, \1!", text),
    "all_of_it_today": lambda text: f"Today the{text.removeprefix('The')}",
    "not_so_sure": lambda text: re.sub(r"^The (\w+) is (.*)\.$", r"Is the \1 \2?", text),
    "plans_for_tomorrow": lambda text: text.replace(" ", " will ", 1),
    "it_was_yesterday": _in_past,
    "plain_orders": _plain,
    "that_is_not_so": lambda text: text.replace(" is ", " is not ", 1),
    "he_or_she": _pronoun,
    "homes_of_people": lambda text: re.sub(r"^person: (.*); city: (.*)$", r"\1 lives in \2.", text),
    "person_of_the_sentence": lambda text: text.split()[0],
    "only_the_place": lambda text: text.removesuffix(".").split(" is ")[1],
    "two_sentences_in_one": _joined,
    "how_was_it": lambda text: "good" if _good(text) else "bad",
    "will_the_guest_come_back": lambda text: _yes(_good(text)),
    "page_of_the_paper": _topic,
    "weather_or_music": _topic,
    "three_groups": _kind,
    "animal_or_not": lambda text: _yes(_kind(text) == "animal"),
    "colours_that_are_false": lambda text: str(_is_fact(text, "is", world().colours)).lower(),
    "sounds_that_are_wrong": lambda text: (
        "right" if _is_fact(text, "says", world().sounds) else "wrong"
    ),
    "sides_of_the_street": lambda text: "odd" if int(text) % 2 else "even",
    "pairs_for_a_dance": lambda text: "odd" if len(_listed(text)) % 2 else "even",
    "score_against_score": lambda text: (
        "larger" if _numbers(text)[0] > _numbers(text)[1] else "smaller"
    ),
    "stairs_of_numbers": lambda text: _yes(_numbers(text) == sorted(_numbers(text))),
    "one_thing_or_many": lambda text: "many" if _singulars(text) else "one",
    "word_and_its_twin": lambda text: "same" if len(set(_listed(text))) == 1 else "different",
    "do_they_differ_in_meaning": lambda text: _yes(_opposite(_listed(text)[0]) == _listed(text)[1]),
    "name_of_what": lambda text: "person" if text in world().lines["people"] else "city",
    "where_is_the_lamp": lambda text: _yes("lamp" in _listed(text)),
    "kind_of_line": lambda text: (
        "request" if text.startswith("Please") else RULES["asking_or_telling"](text)
    ),
    "manners_of_a_guest": lambda text: "polite" if text.endswith("please?") else "rude",
    "past_or_present": _tense,
}
RULES: Mapping[str, Rule] = {**FIRST_RULES, **MORE_RULES}
