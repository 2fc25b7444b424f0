"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[T], total: int, what: str, unit: str = "image") -> Iterator[T]:
    """Yields the items and shows how far it got: a bar on a terminal, else a log line now and then and one at the end.

    Args:
        items: what to go through.
        total: how many there are.
        what: the work in a word or two.
        unit: what an item is called.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, unit=unit)
        return
    started = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or done == total:
            last, seconds = now, max(now - started, 1e-9)
            left = (total - done) * seconds / done
            logger.info("%s: %d of %d, %.1f %ss/s, %.0f s left", what, done, total, done / seconds, unit, left)
