"""Reads the Markdown tables that tools/benchmark.py prints."""

from __future__ import annotations

import re


def read_tables(text: str) -> dict[str, list[dict[str, str]]]:
    """Rows by column name of each table by its title; a repeated column gets its place behind its name."""
    tables = {}
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title, _, rest = part.partition("\n")
        lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in rest.splitlines() if "|" in line]
        columns = [name if lines[0].index(name) == place else f"{name} {place}" for place, name in enumerate(lines[0])]
        assert set(lines[1]) <= {"---", "---:"}
        assert all(len(line) == len(columns) for line in lines)
        tables[title] = [dict(zip(columns, line)) for line in lines[2:]]
    return tables


def is_ratio(printed: str, value: str, base: str) -> bool:
    """Whether a printed ratio is that of two printed numbers, within the digits that they are printed with."""
    return (
        abs(float(printed) - float(value) / float(base)) <= 0.006 + 0.001 * float(printed) + (float(printed) > 99) * 0.6
    )
