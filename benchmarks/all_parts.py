"""All parts one after the other, each in a process of its own, as one document."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.parts import PARTS
from cellseg_d2.progress import track

TOOL = Path(__file__).resolve().parents[1] / "tools" / "benchmark.py"
ERROR_LINES = 20
"""The last lines of an error that the document shows."""


@dataclass(frozen=True)
class Section:
    """A piece of the document.

    Attributes:
        text: Markdown.
        failed: the run whose error it shows; empty for all other pieces.
    """

    text: str
    failed: str = ""


def run_all(names: Sequence[str], size: str, data: Path) -> Iterator[Section]:
    """Runs parts, and gives each piece of the document when it is there.

    A part that fails has its error in place of its tables, and does not keep the others from running.

    Args:
        names: keys of PARTS.
        size: a key of SIZES, or "full".
        data: for the parts that take data.
    """
    yield Section(
        f"# Benchmarks, {size} form\n\nEach part ran in a process of its own, one after the other. "
        "docs/benchmarks.md has the full form of each, and what was to be reached.\n"
    )
    sizes = () if size == "full" else (f"--{size}",)
    runs = [(name, arguments) for name in names if not PARTS[name].left_out for arguments in PARTS[name].in_all]
    for name, arguments in track(runs, len(runs), "parts", unit="part"):
        chosen = ("--data", str(data)) if PARTS[name].data else ()
        yield run_part((name, *sizes, *arguments), chosen)
    for name in names:
        if reason := PARTS[name].left_out:
            yield Section(f"## {name}\n\nLeft out: {reason}. `tools/benchmark.py {name}` runs it.\n")


def run_part(arguments: Sequence[str], data: Sequence[str]) -> Section:
    """Runs one part with these arguments of the command line, of which the title leaves out those for the data."""
    title = " ".join(arguments)
    started, used = time.monotonic(), _cpu_seconds()
    done = subprocess.run([sys.executable, str(TOOL), *arguments, *data], capture_output=True, text=True)
    took = f"Took {time.monotonic() - started:.0f} s, {_cpu_seconds() - used:.0f} s of the CPU."
    if done.returncode == 0:
        return Section(f"## {title}\n\n{took} {done.stdout.strip()}\n")
    error = "\n".join(done.stderr.strip().splitlines()[-ERROR_LINES:])
    failure = f"{took} **Failed** with exit code {done.returncode}:\n\n```\n{error}\n```"
    return Section(f"## {title}\n\n{failure}\n", failed=title)


def _cpu_seconds() -> float:
    """What ended processes that this one started have used, user's and system's."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
