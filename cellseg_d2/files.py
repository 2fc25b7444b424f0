"""Files that appear whole or not at all, JSON files, and reproducible zip entries."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellseg_d2.errors import CellSegError, one_line


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; that file takes ``path``'s place at the end, or goes if anything fails.

    The folder is made where it is missing; a link is followed.

    Raises:
        CellSegError: the file cannot be written. Errors of the block that name another file are passed on.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error tells more
            partial.unlink(missing_ok=True)
        if not isinstance(error, OSError) or not _is_of(error, partial):
            raise
        raise CellSegError(f"{path}: cannot be written ({error.strerror or error}); fix that and run again") from error


def _is_of(error: OSError, path: Path) -> bool:
    """Whether an error may be about a file: it names it, a folder that it lies in, or, as a full disk, nothing."""
    return error.filename is None or Path(str(error.filename)) in (path, *path.parents)


def zip_entry(name: str) -> zipfile.ZipInfo:
    """A compressed entry without the time of day, dated as early as the format can."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def as_file_name(name: str) -> str:
    r"""A name with ``_`` in place of each character that file names may not have on one system or another.

    >>> as_file_name("T cell: CD4/CD8")
    'T cell_ CD4_CD8'
    """
    return re.sub(r'[\x00-\x1f\\/:*?"<>|]', "_", name)


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        CellSegError: it cannot be read, or is not JSON.
    """
    try:
        data = path.read_bytes()
        return json.loads(data.decode(json.detect_encoding(data)))
    except OSError as error:
        raise CellSegError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # of JSON, or of UTF-8
        raise CellSegError(f"{path}: is not JSON ({one_line(error, 100)})") from error
    except RecursionError as error:
        raise CellSegError(f"{path}: is nested too deeply to be read; write plain lists and objects") from error


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Writes JSON as UTF-8, compact unless ``indent`` is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    separators = (",", ":") if indent is None else None
    path.write_text(json.dumps(content, indent=indent, separators=separators) + "\n", encoding="utf-8")


FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\n")
"""What begins a cell that Excel and LibreOffice run as a formula (OWASP, "CSV Injection")."""


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table as CSV, UTF-8, whole or not at all.

    Text that a spreadsheet would take for a formula, such as a class called ``=1+1``, gets an apostrophe before it.
    Numbers are written as they are.

    Raises:
        CellSegError: the file cannot be written.
    """
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_as_text(value) for value in header])
        writer.writerows([_as_text(value) if type(value) is str else value for value in row] for row in rows)


def _as_text(value: str) -> str:
    """Text of a table, with an apostrophe where it would be run."""
    value = value.replace("\r", " ")  # the csv module does not quote it, and readers take it for the end of a row
    return f"'{value}" if value.startswith(FORMULA_STARTS) else value


def without_nan(content: Any) -> Any:
    """The same with None for NaN, which JSON does not have."""
    if isinstance(content, Mapping):
        return {key: without_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and math.isnan(content) else content


def visible_entries(folder: Path) -> list[Path]:
    """A folder's entries by name, without those of editors and file managers, such as macOS's ``._image.tif``."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def refuse_other_than_utf8(paths: Iterable[Path]) -> None:
    """Refuses file names that are not UTF-8: they go into JSON files and log lines, which other programs read.

    Raises:
        CellSegError: a name is not UTF-8.
    """
    for path in paths:
        try:
            path.name.encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(path).decode(errors="backslashreplace")
            raise CellSegError(f"{shown}: its name is not UTF-8; rename it") from error
