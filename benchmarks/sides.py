"""The sides of a comparison, each in a fresh process of the Python that has what it needs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from benchmarks.timing import PeakMemory, resident_peak
from cellseg_d2.errors import CellSegError

MAIN = Path(sys.executable)
"""The Python that runs this package's side."""

SAHI = Path(sys.prefix) / "sahi" / "bin" / "python"
"""The Python that runs SAHI's side, of the environment that ``make bench-setup`` makes."""

WITHOUT_SAHI = "SAHI is not installed: `make bench-setup` installs it, and its rows are added."


@dataclass(frozen=True)
class Outcome:
    """What a work gave back, and the memory of its process."""

    value: Any
    memory: PeakMemory

    @property
    def extra_megabytes(self) -> float:
        """The peak, less what was taken when all was imported and the arguments were read."""
        return (self.memory.peak - self.memory.before) / 1e6


def run_side(python: Path, work: str, *args: Any) -> Outcome:
    """Runs a function in a fresh process.

    Args:
        python: the interpreter.
        work: the function, as ``package.module:name``.
        args: what it is called with; pickled, as is what it gives back.

    Raises:
        CellSegError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        exchange = Path(folder) / "exchange.pickle"
        exchange.write_bytes(pickle.dumps((work, args)))
        root = str(Path(__file__).resolve().parents[1])  # so that both interpreters import this very package
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
        command = [str(python), "-m", "benchmarks.sides", str(exchange)]
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        if process.returncode:
            raise CellSegError(f"{work} failed: {process.stderr.strip()[-2000:]}")
        outcome: Outcome = pickle.loads(exchange.read_bytes())
        return outcome


def main(arguments: Sequence[str]) -> None:
    """What the fresh process runs."""
    exchange = Path(arguments[0])
    work, args = pickle.loads(exchange.read_bytes())
    module, _, name = work.partition(":")
    function = getattr(import_module(module), name)
    before = psutil.Process().memory_info().rss
    value = function(*args)
    # The class as its module knows it: here it is __main__'s, which the other process could not read.
    outcome = import_module("benchmarks.sides").Outcome(value, PeakMemory(before, resident_peak()))
    exchange.write_bytes(pickle.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1:])
