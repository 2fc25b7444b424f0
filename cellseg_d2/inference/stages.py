"""Work in three stages that overlap: threads make what comes next and finish what is done, while the caller works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, cast

Item = TypeVar("Item")
Found = TypeVar("Found")
Result = TypeVar("Result")

AHEAD = 2
"""Items that are made before they are needed, and about as many may wait to be finished: a handful lies in memory."""


def in_stages(
    items: Iterable[Item], work: Callable[[Item], Found], finish: Callable[[Item, Found], Result], ahead: int = AHEAD
) -> Generator[Result, None, None]:
    """Yields ``finish(item, work(item))`` of each item, in order.

    One thread makes the items, another one finishes them, and ``work`` runs in the caller's thread. Close the iterator
    where it is not used up: no thread runs on afterwards.

    Args:
        items: its iterator runs in a thread.
        work: what takes longest, such as a network on a GPU.
        finish: runs in a thread.
        ahead: how many items are made before they are needed, and how many may wait to be finished.

    Raises:
        Exception: what any of the three raises, as soon as it is met; earlier results that still wait are lost.
    """
    end = object()
    iterator = iter(items)
    with _thread() as makes, _thread() as finishes:
        coming: deque[Future[object]] = deque(makes.submit(next, iterator, end) for _ in range(ahead))
        done: deque[Future[Result]] = deque()
        while (made := coming.popleft().result()) is not end:
            coming.append(makes.submit(next, iterator, end))
            item = cast(Item, made)
            done.append(finishes.submit(finish, item, work(item)))
            if len(done) > ahead:
                yield done.popleft().result()
        while done:
            yield done.popleft().result()


@contextmanager
def _thread() -> Iterator[ThreadPoolExecutor]:
    """A thread that takes tasks; at the end it has finished the one that it works on, and drops the others."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
