"""The primer's promises: one sequence per seed, right answers, the announced shares and lengths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from refine_dagster.refine_af.instance_prompt import Triple, read_instance
from refine_dagster.training.primer import (
    ALL_FAMILIES,
    CLASSIFICATION_FAMILIES,
    PrimerTask,
    primer_tasks,
)
from refine_dagster.training.primer_world import wordings, world

TASKS = primer_tasks(6000, seed=11)
OPERATIONS = {
    "breadth",
    "constraints",
    "deepening",
    "concretizing",
    "reasoning",
    "complicate_input",
}


def _listed(text: str) -> list[str]:
    return text.split(", ")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _share(holds: Callable[[PrimerTask], bool]) -> float:
    return sum(map(holds, TASKS)) / len(TASKS)


def test_the_same_seed_gives_the_same_tasks_and_another_seed_others() -> None:
    assert primer_tasks(300, seed=4) == primer_tasks(300, seed=4)
    assert primer_tasks(300, seed=4) != primer_tasks(300, seed=5)


@pytest.mark.parametrize("count", [0, 1, 37, 1200])
def test_a_longer_count_extends_a_shorter_one(count: int) -> None:
    assert primer_tasks(count, seed=11) == TASKS[:count]


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        primer_tasks(-1, seed=0)


def test_the_tasks_do_not_move_the_global_random_stream() -> None:
    import random

    random.seed(8)
    expected = random.random()
    random.seed(8)
    primer_tasks(50, seed=1)
    assert random.random() == expected


def test_every_family_is_worded_and_appears() -> None:
    assert set(wordings()) == set(ALL_FAMILIES)
    assert {task.family for task in TASKS} == set(ALL_FAMILIES)
    assert set(ALL_FAMILIES) >= OPERATIONS
    for family, entry in wordings().items():
        assert len({*entry.given, *entry.inline}) >= 5, family
        assert len({*entry.given, *entry.inline}) == len(entry.given) + len(entry.inline), family


def test_shares_of_forms() -> None:
    assert _share(lambda task: not task.triple.input) == pytest.approx(1 / 3, abs=0.03)
    assert _share(lambda task: task.family in CLASSIFICATION_FAMILIES) == pytest.approx(
        0.25, abs=0.03
    )
    assert _share(lambda task: task.family in OPERATIONS) == pytest.approx(0.12, abs=0.03)


def test_labels_are_balanced() -> None:
    for family in sorted(CLASSIFICATION_FAMILIES):
        labels = Counter(task.triple.output for task in TASKS if task.family == family)
        assert len(labels) >= 2, family
        assert max(labels.values()) < 0.65 * labels.total(), (family, labels)


def test_texts_are_short_whole_and_free_of_unfilled_slots() -> None:
    for task in TASKS:
        triple = task.triple
        assert 4 <= len(triple.instruction.split()) <= 16, task
        assert len(triple.input.split()) <= 16, task
        assert 1 <= len(triple.output.split()) <= 18, task
        assert triple.input != triple.output, task
        for text in (triple.instruction, triple.input, triple.output):
            assert text == " ".join(text.split()), task
            assert not set("{}\n") & set(text), task


def test_every_task_passes_the_format_gate() -> None:
    for task in TASKS:
        _, completion = task.triple.render().split("\nInput:")
        read = read_instance(completion)
        assert read.format_valid, task
        assert (read.input, read.output) == (task.triple.input, task.triple.output)


def test_tasks_differ_and_instructions_number_in_the_hundreds() -> None:
    assert len({task.triple for task in TASKS}) == len(TASKS)
    assert len({task.triple.instruction for task in TASKS if task.triple.input}) >= 400
    assert len({task.triple.instruction for task in TASKS if not task.triple.input}) >= 400
    assert len({task.triple.instruction.split()[0] for task in TASKS}) >= 40


def _reordered(triple: Triple) -> str:
    return ", ".join(reversed(_listed(triple.input)))


def _picked(triple: Triple) -> str:
    words = _listed(triple.input)
    if "longest" in triple.instruction:
        return sorted(words, key=len)[-1]
    if "shortest" in triple.instruction:
        return sorted(words, key=len)[0]
    for place, which in ((0, "first"), (1, "second"), (-1, "last")):
        if which in triple.instruction:
            return words[place]
    raise AssertionError(triple)


def _without(triple: Triple) -> str:
    removed = set(re.findall(r"\w+", triple.instruction)) & set(_listed(triple.input))
    assert len(removed) == 1, triple
    return ", ".join(word for word in _listed(triple.input) if word not in removed)


def _front(triple: Triple) -> str:
    return f"{_named(triple)}, {triple.input}"


def _named(triple: Triple) -> str:
    """The one thing of the input's topic that the instruction names."""
    things = next(
        things for things in world().topics.values() if set(_listed(triple.input)) <= set(things)
    )
    (word,) = [thing for thing in things if re.search(rf"\b{thing}\b", triple.instruction)]
    return word


def _begun(triple: Triple) -> str:
    word = next(w for w in ("today", "now", "maybe", "often") if f" {w}" in triple.instruction)
    return f"{word.title()} the {triple.input.removeprefix('The ')}"


def _joined(triple: Triple) -> str:
    glue = next(
        glue
        for name, glue in (("commas", ", "), ("word and", " and "), ("dashes", " - "), ("+", " + "))
        if name in triple.instruction.replace("plus signs", "+")
    )
    return triple.input.replace(" ", glue)


def _ordered(triple: Triple) -> str:
    numbers = sorted(_numbers(triple.input))
    falling = "large to small" in triple.instruction or "high to low" in triple.instruction
    return ", ".join(str(number) for number in (numbers[::-1] if falling else numbers))


def _extreme(triple: Triple) -> str:
    numbers = sorted(_numbers(triple.input))
    return str(numbers[-1] if "largest" in triple.instruction else numbers[0])


def _stranger(triple: Triple) -> str:
    kinds = {word: kind for kind, words in world().kinds.items() for word in words}
    counts = Counter(kinds[word] for word in _listed(triple.input))
    assert sorted(counts.values()) == [1, 3], triple
    return next(word for word in _listed(triple.input) if counts[kinds[word]] == 1)


def _story(triple: Triple) -> str:
    first, second = _numbers(triple.input)
    more = re.search(r"\b(gets|buys|finds) \d+ more", triple.input)
    return str(first + second if more else first - second)


RECOMPUTED: dict[str, Callable[[Triple], str]] = {
    "reverse_words": _reordered,
    "sort_words": lambda triple: ", ".join(sorted(_listed(triple.input))),
    "pick_word": _picked,
    "count_words": lambda triple: str(triple.input.count(",") + 1),
    "remove_word": _without,
    "add_word": lambda triple: f"{triple.input}, {_named(triple)}",
    "front_word": _front,
    "twice": lambda triple: f"{triple.input}, {triple.input}",
    "exclaim": lambda triple: triple.input.removesuffix(".") + "!",
    "begin": _begun,
    "join_words": _joined,
    "capitals": lambda triple: triple.input.upper(),
    "extreme": _extreme,
    "sum_numbers": lambda triple: str(sum(_numbers(triple.input))),
    "count_numbers": lambda triple: str(triple.input.count(",") + 1),
    "sort_numbers": _ordered,
    "odd_one_out": _stranger,
    "duplicates": lambda triple: ", ".join(
        sorted(set(_listed(triple.input)), key=_listed(triple.input).index)
    ),
    "add": lambda triple: str(sum(_numbers(triple.input))),
    "subtract": lambda triple: str(_numbers(triple.input)[0] - _numbers(triple.input)[1]),
    "multiply": lambda triple: str(_numbers(triple.input)[0] * _numbers(triple.input)[1]),
    "word_problem": _story,
    "even_or_odd": lambda triple: ("even", "odd")[int(triple.input) % 2],
    "even_or_odd_count": lambda triple: ("odd", "even")[triple.input.count(",") % 2],
    "compare": lambda triple: (
        "larger" if _numbers(triple.input)[0] > _numbers(triple.input)[1] else "smaller"
    ),
    "question_or_statement": lambda triple: (
        "question" if triple.input.endswith("?") else "statement"
    ),
    "question_to_statement": lambda triple: re.sub(
        r"^Is the (\w+) (.*)\?$", r"The \1 is \2.", triple.input
    ),
}


@pytest.mark.parametrize("family", sorted(RECOMPUTED))
def test_answers_are_right_when_computed_again_from_the_text(family: str) -> None:
    checked = [task.triple for task in TASKS if task.family == family and task.triple.input]
    assert len(checked) >= 20
    for triple in checked:
        assert triple.output == RECOMPUTED[family](triple), triple


INLINE_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: abs(a - b),
    "multiply": lambda a, b: a * b,
}


@pytest.mark.parametrize("family", sorted(INLINE_ARITHMETIC))
def test_arithmetic_in_the_instruction_is_right(family: str) -> None:
    checked = [task.triple for task in TASKS if task.family == family and not task.triple.input]
    assert len(checked) >= 20
    for triple in checked:
        first, second = _numbers(triple.instruction)
        assert triple.output == str(INLINE_ARITHMETIC[family](first, second)), triple


def test_facts_of_the_input_and_of_the_instruction_agree() -> None:
    tables = {
        "colour": world().colours,
        "place": world().places,
        "sound": world().sounds,
        "use": world().uses,
    }
    for task in TASKS:
        if task.family in tables:
            table = tables[task.family]
            known = {
                thing for thing in table if re.search(rf"\b{thing}\b", task.triple.instruction)
            }
            thing = task.triple.input or next(iter(known))
            assert task.triple.output == table[thing], task


def test_opposites_and_plurals() -> None:
    pairs = {frozenset(pair) for pair in world().opposites}
    for task in TASKS:
        if task.family == "opposite" and task.triple.input:
            assert frozenset((task.triple.input, task.triple.output)) in pairs, task
    plurals = "mice leaves buses boxes babies brushes children potatoes daisies cookies guitars"
    nouns = "mouse leaf bus box baby brush child potato daisy cookie guitar"
    assert [world().plural(noun) for noun in nouns.split()] == plurals.split()


def test_yes_and_no_follow_from_the_facts() -> None:
    kinds = {word: kind for kind, words in world().kinds.items() for word in words}
    for task in TASKS:
        if task.family != "yes_no":
            continue
        text = f"{task.triple.instruction} {task.triple.input}"
        question = re.search(r"\b(Is|Does) (?:an? )?(\w+) (?:an? )?(\w+)\?", text)
        assert question, task
        verb, thing, claim = question.groups()
        if verb == "Does":
            right = world().sounds[thing] == claim
        elif claim in world().kinds:
            right = kinds[thing] == claim
        else:
            right = world().colours[thing] == claim
        assert task.triple.output == ("yes" if right else "no"), task


def test_no_word_has_two_kinds_and_no_thing_two_topics() -> None:
    for table in (world().kinds, world().topics):
        counts = Counter(word for words in table.values() for word in words)
        assert set(counts.values()) == {1}


def test_rewrites_are_new_instructions_that_grow_where_the_operation_adds() -> None:
    for task in TASKS:
        before, after = task.triple.input, task.triple.output
        if task.family not in OPERATIONS:
            continue
        assert before[0].isupper(), task
        assert before.endswith("."), task
        assert after[-1] in ".?", task
        if task.family in {"constraints"}:
            assert after.startswith(before), task
        if task.family in {"deepening", "reasoning"}:
            assert after.startswith(before[:-1]), task
            assert len(after) > len(before), task
        if task.family == "complicate_input":
            assert after.count(",") >= 2, task
        if task.family == "concretizing":
            assert re.search(r"\ban? \w+", after.removeprefix(before.split(" about")[0])), task
