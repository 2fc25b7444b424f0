"""Tables of results, printed and kept as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from benchmarks.timing import Timing

TIMING_COLUMNS = ("best s", "median s", "slowest / best")
"""What :func:`timing_cells` fills."""


@dataclass(frozen=True)
class Table:
    """Rows under columns, with a title and a text on what was measured."""

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As a GitHub table; the first column is text, the others are numbers."""
        rule = ["---"] + ["---:"] * (len(self.columns) - 1)
        lines = [f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.rows)]
        return "\n".join([f"### {self.title}", "", self.text, "", *lines, ""])


def number(value: float) -> str:
    """Four significant digits: a reader who divides two of them gets the ratio that is printed."""
    return f"{value:.4g}"


def ratio(value: float, base: float) -> str:
    """How many times ``base`` a value is."""
    return f"{value / base:.{0 if value >= 100 * base else 2}f}"


def timing_cells(timing: Timing) -> list[str]:
    """The cells of :data:`TIMING_COLUMNS`."""
    return [number(timing.best), number(timing.median), f"{timing.spread:.2f}"]


def machine(*packages: str) -> str:
    """What the figures depend on, in words that name no machine: cores, Python, and packages that are installed."""
    versions = ", ".join(f"{package} {version(package)}" for package in packages if _is_installed(package))
    return f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, {versions}."


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:  # an extra, such as OpenVINO
        return False
    return True
