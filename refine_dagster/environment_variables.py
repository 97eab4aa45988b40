"""Environment variables that other libraries set or read, as they were before."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def variables_as_found(names: Collection[str]) -> Iterator[None]:
    """Let anything set these variables, and put the old values back."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables and put the old ones back."""
    with variables_as_found(values):
        os.environ.update(values)
        yield
