"""Files that appear whole or not at all, and zip archives that the same content makes byte by byte the same."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellseg_d2.errors import CellSegError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; that file takes ``path``'s place at the end, or goes if anything fails.

    The folder is made where it is missing.

    Raises:
        CellSegError: the file cannot be written. Errors of the block that name another file are passed on.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error tells more
            partial.unlink(missing_ok=True)
        if not isinstance(error, OSError) or not _is_of(error, partial):
            raise
        raise CellSegError(f"{path}: cannot be written ({error.strerror or error}); mend that and run again") from error


def _is_of(error: OSError, path: Path) -> bool:
    """Whether an error may be about a file: it names it, a folder that it lies in, or, as a full disk, nothing."""
    return error.filename is None or Path(str(error.filename)) in (path, *path.parents)


def zip_entry(name: str) -> zipfile.ZipInfo:
    """A compressed entry without the time of day, dated as early as the format can."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
