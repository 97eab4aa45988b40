"""The primer's promises: one sequence per seed, right answers, the announced shares and lengths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from refine_dagster.offline.primer import (
    ALL_FAMILIES,
    CLASSIFICATION_FAMILIES,
    PrimerTask,
    primer_tasks,
)
from refine_dagster.offline.world import wordings, world
from refine_dagster.prompts.example import Example, read_instance

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
    assert _share(lambda task: not task.example.input) == pytest.approx(1 / 3, abs=0.03)
    assert _share(lambda task: task.family in CLASSIFICATION_FAMILIES) == pytest.approx(
        0.25, abs=0.03
    )
    assert _share(lambda task: task.family in OPERATIONS) == pytest.approx(0.12, abs=0.03)


def test_labels_are_balanced() -> None:
    for family in sorted(CLASSIFICATION_FAMILIES):
        labels = Counter(task.example.output for task in TASKS if task.family == family)
        assert len(labels) >= 2, family
        assert max(labels.values()) < 0.65 * labels.total(), (family, labels)


def test_texts_are_short_whole_and_free_of_unfilled_slots() -> None:
    for task in TASKS:
        example = task.example
        assert 4 <= len(example.instruction.split()) <= 16, task
        assert len(example.input.split()) <= 16, task
        assert 1 <= len(example.output.split()) <= 18, task
        assert example.input != example.output, task
        for text in (example.instruction, example.input, example.output):
            assert text == " ".join(text.split()), task
            assert not set("{}\n") & set(text), task


def test_every_task_passes_the_format_gate() -> None:
    for task in TASKS:
        _, completion = task.example.render().split("\nInput:")
        read = read_instance(completion)
        assert read.format_valid, task
        assert (read.input, read.output) == (task.example.input, task.example.output)


def test_tasks_differ_and_instructions_number_in_the_hundreds() -> None:
    assert len({task.example for task in TASKS}) == len(TASKS)
    assert len({task.example.instruction for task in TASKS if task.example.input}) >= 400
    assert len({task.example.instruction for task in TASKS if not task.example.input}) >= 400
    assert len({task.example.instruction.split()[0] for task in TASKS}) >= 40


def _reordered(example: Example) -> str:
    return ", ".join(reversed(_listed(example.input)))


def _picked(example: Example) -> str:
    words = _listed(example.input)
    if "longest" in example.instruction:
        return sorted(words, key=len)[-1]
    if "shortest" in example.instruction:
        return sorted(words, key=len)[0]
    for place, which in ((0, "first"), (1, "second"), (-1, "last")):
        if which in example.instruction:
            return words[place]
    raise AssertionError(example)


def _without(example: Example) -> str:
    removed = set(re.findall(r"\w+", example.instruction)) & set(_listed(example.input))
    assert len(removed) == 1, example
    return ", ".join(word for word in _listed(example.input) if word not in removed)


def _front(example: Example) -> str:
    return f"{_named(example)}, {example.input}"


def _named(example: Example) -> str:
    """The one thing of the input's topic that the instruction names."""
    things = next(
        things for things in world().topics.values() if set(_listed(example.input)) <= set(things)
    )
    (word,) = [thing for thing in things if re.search(rf"\b{thing}\b", example.instruction)]
    return word


def _begun(example: Example) -> str:
    word = next(w for w in ("today", "now", "maybe", "often") if f" {w}" in example.instruction)
    return f"{word.title()} the {example.input.removeprefix('The ')}"


def _joined(example: Example) -> str:
    glue = next(
        glue
        for name, glue in (("commas", ", "), ("word and", " and "), ("dashes", " - "), ("+", " + "))
        if name in example.instruction.replace("plus signs", "+")
    )
    return example.input.replace(" ", glue)


def _ordered(example: Example) -> str:
    numbers = sorted(_numbers(example.input))
    falling = "large to small" in example.instruction or "high to low" in example.instruction
    return ", ".join(str(number) for number in (numbers[::-1] if falling else numbers))


def _extreme(example: Example) -> str:
    numbers = sorted(_numbers(example.input))
    return str(numbers[-1] if "largest" in example.instruction else numbers[0])


def _stranger(example: Example) -> str:
    kinds = {word: kind for kind, words in world().kinds.items() for word in words}
    counts = Counter(kinds[word] for word in _listed(example.input))
    assert sorted(counts.values()) == [1, 3], example
    return next(word for word in _listed(example.input) if counts[kinds[word]] == 1)


def _story(example: Example) -> str:
    first, second = _numbers(example.input)
    more = re.search(r"\b(gets|buys|finds) \d+ more", example.input)
    return str(first + second if more else first - second)


RECOMPUTED: dict[str, Callable[[Example], str]] = {
    "reverse_words": _reordered,
    "sort_words": lambda example: ", ".join(sorted(_listed(example.input))),
    "pick_word": _picked,
    "count_words": lambda example: str(example.input.count(",") + 1),
    "remove_word": _without,
    "add_word": lambda example: f"{example.input}, {_named(example)}",
    "front_word": _front,
    "twice": lambda example: f"{example.input}, {example.input}",
    "exclaim": lambda example: example.input.removesuffix(".") + "!",
    "begin": _begun,
    "join_words": _joined,
    "capitals": lambda example: example.input.upper(),
    "extreme": _extreme,
    "sum_numbers": lambda example: str(sum(_numbers(example.input))),
    "count_numbers": lambda example: str(example.input.count(",") + 1),
    "sort_numbers": _ordered,
    "odd_one_out": _stranger,
    "duplicates": lambda example: ", ".join(
        sorted(set(_listed(example.input)), key=_listed(example.input).index)
    ),
    "add": lambda example: str(sum(_numbers(example.input))),
    "subtract": lambda example: str(_numbers(example.input)[0] - _numbers(example.input)[1]),
    "multiply": lambda example: str(_numbers(example.input)[0] * _numbers(example.input)[1]),
    "word_problem": _story,
    "even_or_odd": lambda example: ("even", "odd")[int(example.input) % 2],
    "even_or_odd_count": lambda example: ("odd", "even")[example.input.count(",") % 2],
    "compare": lambda example: (
        "larger" if _numbers(example.input)[0] > _numbers(example.input)[1] else "smaller"
    ),
    "question_or_statement": lambda example: (
        "question" if example.input.endswith("?") else "statement"
    ),
    "question_to_statement": lambda example: re.sub(
        r"^Is the (\w+) (.*)\?$", r"The \1 is \2.", example.input
    ),
}


@pytest.mark.parametrize("family", sorted(RECOMPUTED))
def test_answers_are_right_when_computed_again_from_the_text(family: str) -> None:
    checked = [task.example for task in TASKS if task.family == family and task.example.input]
    assert len(checked) >= 20
    for example in checked:
        assert example.output == RECOMPUTED[family](example), example


INLINE_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: abs(a - b),
    "multiply": lambda a, b: a * b,
}


@pytest.mark.parametrize("family", sorted(INLINE_ARITHMETIC))
def test_arithmetic_in_the_instruction_is_right(family: str) -> None:
    checked = [task.example for task in TASKS if task.family == family and not task.example.input]
    assert len(checked) >= 20
    for example in checked:
        first, second = _numbers(example.instruction)
        assert example.output == str(INLINE_ARITHMETIC[family](first, second)), example


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
                thing for thing in table if re.search(rf"\b{thing}\b", task.example.instruction)
            }
            thing = task.example.input or next(iter(known))
            assert task.example.output == table[thing], task


def test_opposites_and_plurals() -> None:
    pairs = {frozenset(pair) for pair in world().opposites}
    for task in TASKS:
        if task.family == "opposite" and task.example.input:
            assert frozenset((task.example.input, task.example.output)) in pairs, task
    plurals = "mice leaves buses boxes babies brushes children potatoes daisies cookies guitars"
    nouns = "mouse leaf bus box baby brush child potato daisy cookie guitar"
    assert [world().plural(noun) for noun in nouns.split()] == plurals.split()


def test_yes_and_no_follow_from_the_facts() -> None:
    kinds = {word: kind for kind, words in world().kinds.items() for word in words}
    for task in TASKS:
        if task.family != "yes_no":
            continue
        text = f"{task.example.instruction} {task.example.input}"
        question = re.search(r"\b(Is|Does) (?:an? )?(\w+) (?:an? )?(\w+)\?", text)
        assert question, task
        verb, thing, claim = question.groups()
        if verb == "Does":
            right = world().sounds[thing] == claim
        elif claim in world().kinds:
            right = kinds[thing] == claim
        else:
            right = world().colours[thing] == claim
        assert task.example.output == ("yes" if right else "no"), task


def test_no_word_has_two_kinds_and_no_thing_two_topics() -> None:
    for table in (world().kinds, world().topics):
        counts = Counter(word for words in table.values() for word in words)
        assert set(counts.values()) == {1}


def test_rewrites_are_new_instructions_that_grow_where_the_operation_adds() -> None:
    for task in TASKS:
        before, after = task.example.input, task.example.output
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
