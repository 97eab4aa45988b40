"""The rules that make a good triple worse without looking at other triples.

Each takes a triple and a source of chance and returns the worse triple, the same one where chance
changed nothing, or None where the rule has nothing to take hold of. `corruptions.py` names the
kinds, says what each harms, and adds the rules that borrow from other triples.
"""

from __future__ import annotations

import re
from collections import Counter
from random import Random

from refine_dagster.refine_af.instance_prompt import NO_INPUT, Triple

# Words of a text below which damage to their order or number would not show.
MIN_WORDS = 4
DROPPED_SHARE = 0.35
# Share of an output's words that stand in its task from which it counts as a rearrangement of it.
REARRANGED_SHARE = 0.6
LEFTOVERS = (
    "Output: {output}",
    "{output}\nInput: {input}",
    "{output} Output: {output}",
    f"{{output}} {NO_INPUT}",
    f"{NO_INPUT} {{output}}",
    "{output} Instruction: {instruction}",
    "Task 1: {output}",
    "{output}\nTask 2:",
)
NUMBER = re.compile(r"\d+")
WORD = re.compile(r"[^\W\d_]+")


def task(triple: Triple) -> str:
    return f"{triple.instruction} {triple.input}"


def wording(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))


def content_words(text: str) -> set[str]:
    """Lower-case words of four letters or more, and numbers."""
    words = {word.lower() for word in WORD.findall(text) if len(word) > 3}
    return words | set(NUMBER.findall(text))


def squeezed_text(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?")


def squeezed(triple: Triple) -> tuple[str, str]:
    return squeezed_text(triple.input), squeezed_text(triple.output)


def _is_prose(text: str) -> bool:
    """Whether the order of the words matters: several words, and no mere list of them."""
    words = text.split()
    separate = sum(word.endswith(",") or word in {"and", "or"} for word in words)
    return len(words) >= MIN_WORDS and separate * 2 < len(words) - 1 and text[-1:] in ".!?"


def _shuffle(text: str, random: Random) -> str:
    words = text.split()
    random.shuffle(words)
    return " ".join(words)


def _drop(text: str, random: Random) -> str:
    words = text.split()
    count = max(1, round(DROPPED_SHARE * len(words)))
    dropped = set(random.sample(range(len(words)), count))
    return " ".join(word for at, word in enumerate(words) if at not in dropped)


def _cut(text: str, random: Random) -> str:
    words = text.split()
    return " ".join(words[: random.randint(max(1, len(words) // 3), len(words) - 1)])


def with_output(triple: Triple, output: str) -> Triple:
    return Triple(triple.instruction, triple.input, output)


def shuffled_words(triple: Triple, random: Random) -> Triple | None:
    if not _is_prose(triple.output):
        return None
    return with_output(triple, _shuffle(triple.output, random))


def dropped_words(triple: Triple, random: Random) -> Triple | None:
    if not _is_prose(triple.output):
        return None
    return with_output(triple, _drop(triple.output, random))


def truncated(triple: Triple, random: Random) -> Triple | None:
    if not _is_prose(triple.output):
        return None
    return with_output(triple, _cut(triple.output, random))


def misspelt(triple: Triple, random: Random) -> Triple | None:
    """In one or two words, two letters change places, one is lost or doubled, or the end is cut."""
    words = triple.output.split()
    places = [at for at, word in enumerate(words) if len(word) >= MIN_WORDS and word.isalpha()]
    if not places:
        return None
    for at in random.sample(places, min(len(places), random.randint(1, 2))):
        word = words[at]
        letter = random.randint(1, len(word) - 2)
        change = random.choice(("swap", "lose", "double", "cut"))
        if change == "cut":
            words[at] = word[: letter + 1]
            continue
        if change == "swap":
            middle = word[letter + 1] + word[letter]
        else:
            middle = word[letter + 1] if change == "lose" else word[letter] * 2 + word[letter + 1]
        words[at] = word[:letter] + middle + word[letter + 2 :]
    return with_output(triple, " ".join(words))


def repeated(triple: Triple, random: Random) -> Triple | None:
    words = triple.output.split()
    if not words or not WORD.search(triple.output):
        return None
    length = random.randint(1, min(4, len(words)))
    start = random.randint(0, len(words) - length)
    phrase = words[start : start + length]
    times = random.randint(1, 3) if length > 1 else random.randint(2, 4)
    return with_output(
        triple, " ".join(words[: start + length] + phrase * times + words[start + length :])
    )


def garbled_input(triple: Triple, random: Random) -> Triple | None:
    if not _is_prose(triple.input):
        return None
    damage = random.choice((_shuffle, _drop))
    return Triple(triple.instruction, damage(triple.input, random), triple.output)


def format_leftover(triple: Triple, random: Random) -> Triple | None:
    leftover = random.choice(LEFTOVERS)
    return with_output(
        triple,
        leftover.format(
            output=triple.output, input=triple.input or NO_INPUT, instruction=triple.instruction
        ),
    )


def missing_input(triple: Triple, random: Random) -> Triple | None:
    return Triple(triple.instruction, "", triple.output) if triple.input else None


def copied_input(triple: Triple, random: Random) -> Triple | None:
    return with_output(triple, triple.input or triple.instruction)


def wrong_number(triple: Triple, random: Random) -> Triple | None:
    numbers = list(NUMBER.finditer(triple.output))
    if not numbers:
        return None
    number = random.choice(numbers)
    value = int(number.group())
    others = [
        other for other in (*range(value - 3, value + 4), value + 10, value * 2) if other >= 0
    ]
    told = [int(one) for one in NUMBER.findall(task(triple))]
    changed = str(random.choice(others + told))
    text = triple.output
    return with_output(triple, text[: number.start()] + changed + text[number.end() :])


def wrong_order(triple: Triple, random: Random) -> Triple | None:
    """Two items of a rearrangement of the task's own words change places, or one is lost."""
    joint = ", " if ", " in triple.output else " "
    ending = triple.output[-1:] if triple.output[-1:] in ".!?" else ""
    items = triple.output.removesuffix(ending).split(joint)
    told = Counter(WORD.findall(task(triple).lower()) + NUMBER.findall(task(triple)))
    own = WORD.findall(triple.output.lower()) + NUMBER.findall(triple.output)
    known = sum(word in told for word in own)
    if len(items) < 3 or _is_prose(triple.output) or known < REARRANGED_SHARE * len(own):
        return None
    if random.random() < 0.25:
        del items[random.randrange(len(items))]
    else:
        one, other = random.sample(range(len(items)), 2)
        items[one], items[other] = items[other], items[one]
    return with_output(triple, joint.join(items) + ending)
