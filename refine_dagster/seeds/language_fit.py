"""Whether seeds are in the language of the run: by their letters, then by frequent words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from refine_dagster.language import Language, languages
from refine_dagster.seeds.task import SeedTask

# Share of seeds in other letters that is taken for a mistake.
MOST_OTHERS = 0.1


def misfit(seeds: Sequence[SeedTask], language: Language) -> str | None:
    """What does not fit, in a sentence; None where the instructions are in the language."""
    texts = [seed.instruction for seed in seeds]
    words = re.findall(r"\w+", " ".join(texts).lower())

    def fit(other: Language) -> tuple[int, int]:
        return sum(map(other.is_written_in, texts)), other.count_common(words)

    best = max(languages().values(), key=fit)
    (written, common), (_, most_common) = fit(language), fit(best)
    others = len(texts) - written
    hint = "" if best == language else f"; set `language: {best.code}` for {best.name}"
    if others > MOST_OTHERS * len(texts):
        return (
            f"{others} of {len(texts)} seed instructions are not in the letters of "
            f"{language.name}, the language of the run{hint}"
        )
    if language.common and most_common > max(2 * common, len(texts) / 2):
        return (
            f"the seed instructions have the frequent words of {best.name}, and the language of "
            f"the run is {language.name}{hint}"
        )
    return None
