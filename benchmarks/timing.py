"""How benchmarks measure: works in turn on the same input, best of several, and the peak memory of a fresh process."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Timing:
    """Seconds that each run of one work took."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        """The least disturbed run: other processes only ever make a run slower."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """What a user sees on a machine like this one."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The slowest run by the fastest."""
        return max(self.seconds) / min(self.seconds)

    def divided(self, count: int) -> Timing:
        """The seconds of one of several like things that a run does."""
        return Timing(tuple(value / count for value in self.seconds))


def time_in_turn(
    works: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Runs each work ``repeats`` times, all of them in turn, so that a slow spell of the machine meets them all.

    Args:
        works: what to run, by name.
        repeats: timed runs of each.
        warm_up: run each once before, untimed, so that none pays for imports and cold files.
        clock: what tells the seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeats + warm_up):
        for name, work in works.items():
            started = clock()
            work()
            if number >= warm_up:
                seconds[name].append(clock() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


@dataclass(frozen=True)
class PeakMemory:
    """Resident bytes of a process: before its work, when all is imported, and at the highest."""

    before: int
    peak: int


def peak_memory(work: Callable[..., object], *args: Any) -> PeakMemory:
    """Runs ``work(*args)`` in a fresh process, so that nothing that ran before has taken memory for it.

    Args:
        work: a function of a module, which the new process imports.
        args: what it is called with.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, work, args).result()


def _measure(work: Callable[..., object], args: tuple[Any, ...]) -> PeakMemory:
    before = psutil.Process().memory_info().rss
    work(*args)
    return PeakMemory(before, resident_peak())


def resident_peak() -> int:
    """The most bytes of memory that this process has had so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux: unlike ru_maxrss this is not inherited from the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
