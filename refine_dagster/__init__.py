"""refine-dagster: seed tasks in, instruction dataset and fine-tuned model out.

The names below are imported when they are first used, so that importing the package costs nothing.
`docs/library.md` shows each of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refine_dagster.generation.completions import CompletionsStore
    from refine_dagster.novelty.filter import NoveltyFilter
    from refine_dagster.refine_af.feedback import Reward
    from refine_dagster.seeds.readers import read_seeds
    from refine_dagster.teams_rl.evolution import evolve
    from refine_dagster.training.reinforcement import train_policy
    from refine_dagster.training.sft import fine_tune

__all__ = [
    "CompletionsStore",
    "NoveltyFilter",
    "Reward",
    "evolve",
    "fine_tune",
    "read_seeds",
    "train_policy",
]

_MODULES = {
    "CompletionsStore": "generation.completions",
    "NoveltyFilter": "novelty.filter",
    "Reward": "refine_af.feedback",
    "evolve": "teams_rl.evolution",
    "fine_tune": "training.sft",
    "read_seeds": "seeds.readers",
    "train_policy": "training.reinforcement",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
