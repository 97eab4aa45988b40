"""The exact ROUGE-L novelty filter of Self-Instruct, fast: `NoveltyFilter`."""

from refine_dagster.novelty.decision import Decision, Key, NearestOf, RefuseAt
from refine_dagster.novelty.filter import NoveltyFilter

__all__ = ["Decision", "Key", "NearestOf", "NoveltyFilter", "RefuseAt"]
