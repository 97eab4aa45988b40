"""Out of memory: the batch is halved, the run says so, and the size that fits is kept.

Only PyTorch's own out-of-memory error counts, which cards raise. accelerate's
`find_executable_batch_size` neither keeps to even parts of a step, nor halves a batch that is
there already, nor remembers the size for the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from refine_dagster.errors import RefineError
from refine_dagster.models.device import Device, release_memory

T = TypeVar("T")
R = TypeVar("R")


class MemoryFullError(RefineError):
    """Even the smallest batch takes more memory than there is."""


def batch_ladder(batch: int) -> list[int]:
    """Sizes into which `batch` examples can be parted evenly, each at most half of the one before.

    The largest is `batch` itself, the last is 1, so a step over all parts sees the same examples.

    >>> batch_ladder(24), batch_ladder(5)
    ([24, 12, 6, 3, 1], [5, 1])
    """
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(next(size for size in range(sizes[-1] // 2, 0, -1) if batch % size == 0))
    return sizes


def with_smaller_batches(
    device: Device,
    work: str,
    batch: int,
    start: int,
    attempt: Callable[[int], T],
    fix: str,
    repeats: int = 1,
) -> T:
    """Try a training with fewer and fewer examples in a pass, as many in a step.

    Args:
        work: names it in messages and in the session's record.
        batch: examples in a pass where memory is enough.
        start: the first size to try, one of `batch_ladder(batch)`; a smaller one that was found in
            this session is taken instead.
        attempt: trains from its beginning (or its last saved state) with so many in a pass.
        repeats: passes of `batch` examples in an optimiser step.
    """
    start = min(start, device.use.batch_sizes.get(work, start))
    sizes = [size for size in batch_ladder(batch) if size <= start]
    for size, smaller in zip(sizes, [*sizes[1:], None], strict=True):
        done, result = _attempt(lambda size=size: attempt(size))  # type: ignore[misc]
        if done:
            return result[0]
        release_memory(device)
        if smaller is not None:
            device.use.back_off(work, size, smaller, f" x {repeats * batch // smaller} accumulated")
    raise _memory_full(work, 1, fix)


def in_batches_that_fit(
    device: Device,
    work: str,
    batch: Sequence[T],
    run: Callable[[Sequence[T]], R],
    fix: str,
    smallest: int = 1,
) -> Iterator[tuple[Sequence[T], R]]:
    """Run a batch, or its halves where memory runs out, or theirs; yield parts in order.

    `run` must not change the items, since a part may be run again. `smallest` items are not halved.

    Raises:
        MemoryFullError: memory runs out with `smallest` items or fewer.
    """
    waiting = [batch]
    while waiting:
        part = waiting.pop(0)
        most = device.use.batch_sizes.get(work, len(part))
        if len(part) > most:
            waiting[:0] = [part[start : start + most] for start in range(0, len(part), most)]
            continue
        done, result = _attempt(lambda part=part: run(part))  # type: ignore[misc]
        if done:
            yield part, result[0]
            continue
        release_memory(device)
        if len(part) <= smallest:
            raise _memory_full(work, len(part), fix)
        device.use.back_off(work, len(part), max(len(part) // 2, smallest))
        waiting.insert(0, part)


def _attempt(run: Callable[[], R]) -> tuple[bool, list[R]]:
    """Whether memory was enough, and then the result.

    When it returns, the frames of a failed attempt are gone, and the tensors that they held.
    """
    from torch import OutOfMemoryError

    try:
        return True, [run()]
    except OutOfMemoryError:
        return False, []


def _memory_full(work: str, batch: int, fix: str) -> MemoryFullError:
    return MemoryFullError(
        f"memory runs out even with a batch of {batch}",
        where=work,
        fix=f"{fix}; or take a card with more memory, or a smaller model",
    )
