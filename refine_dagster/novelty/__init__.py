"""The exact ROUGE-L novelty filter of Self-Instruct, fast: `NoveltyFilter`."""

from refine_dagster.novelty.filter import Decision, Key, NearestOf, NoveltyFilter
from refine_dagster.novelty.pool import RefuseAt

__all__ = ["Decision", "Key", "NearestOf", "NoveltyFilter", "RefuseAt"]
