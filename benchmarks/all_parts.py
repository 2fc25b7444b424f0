"""All parts one after the other, each in a process of its own, as one document."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.parts import PARTS
from cellseg_d2.progress import track

TOOL = Path(__file__).resolve().parents[1] / "tools" / "benchmark.py"
ERROR_LINES = 20
"""The last lines of an error that the document shows."""


@dataclass(frozen=True)
class Section:
    """What became of one run of a part."""

    text: str
    failed: bool = False


def report(names: Sequence[str], size: str, data: Path) -> tuple[str, list[str]]:
    """Runs parts; one that fails does not keep the others from running.

    Args:
        names: keys of PARTS.
        size: ``quick`` or ``short``.
        data: for the parts that take data.

    Returns:
        The document as Markdown, with an error in place of the tables of a part that failed; and the runs that failed.
    """
    runs = [(name, arguments) for name in names if not PARTS[name].left_out for arguments in PARTS[name].in_all]
    sections, failed = [], []
    for name, arguments in track(runs, len(runs), "parts", unit="part"):
        options = [f"--{size}", *arguments, *(("--data", str(data)) if PARTS[name].data else ())]
        title = " ".join([name, f"--{size}", *arguments])
        section = run_part(title, [name, *options])
        sections.append(section.text)
        failed += [title] if section.failed else []
    left_out = [name for name in names if PARTS[name].left_out]
    for name in left_out:
        sections.append(f"## {name}\n\nLeft out: {PARTS[name].left_out}. `tools/benchmark.py {name}` runs it.\n")
    head = (
        f"# Benchmarks, {size} form\n\nEach part ran in a process of its own, one after the other. "
        "docs/benchmarks.md has the full form of each, and what was to be reached.\n"
    )
    return "\n".join([head, *sections]), failed


def run_part(title: str, arguments: Sequence[str]) -> Section:
    """Runs one part with these arguments of the command line."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True)
    head = f"## {title}\n\nTook {time.monotonic() - started:.0f} s."
    if done.returncode == 0:
        return Section(f"{head} {done.stdout.strip()}\n")
    error = "\n".join(done.stderr.strip().splitlines()[-ERROR_LINES:])
    return Section(f"{head} **Failed** with exit code {done.returncode}:\n\n```\n{error}\n```\n", failed=True)
