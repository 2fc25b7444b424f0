"""A folder that appears complete or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellseg_d2.errors import CellSegError


@contextmanager
def appear_whole(output: Path, overwrite: bool, mark: str = "dataset.json") -> Iterator[Path]:
    """A folder beside ``output`` to write into; it takes ``output``'s place at the end, or goes if anything fails.

    Args:
        output: the folder that is to appear.
        overwrite: replace one that is there.
        mark: a file that each such folder has; a folder without it is somebody else's and never replaced.

    Raises:
        CellSegError: ``output`` is there already, or cannot be written.
    """
    partial_folder = output.parent / f".{output.name}.partial"
    old = output.parent / f".{output.name}.old"
    _put_back(old, output)  # of a run that was killed between the two renames
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        if not overwrite:
            raise CellSegError(f"{output}: exists already; give another --output, or --overwrite to replace it")
        if not (output / mark).is_file():
            raise CellSegError(
                f"{output}: is no converted dataset, so it is not overwritten (it has no {mark}); give another --output"
            )
    try:
        for leftover in (partial_folder, old):  # of a run that was killed
            if leftover.exists():
                shutil.rmtree(leftover)
        partial_folder.mkdir(parents=True)
        yield partial_folder
        if output.exists():
            output.rename(old)
        partial_folder.rename(output)
        if old.exists():
            shutil.rmtree(old)
    except BaseException as error:
        shutil.rmtree(partial_folder, ignore_errors=True)
        _put_back(old, output)
        if not isinstance(error, OSError):
            raise
        mend = "make room there" if error.errno == errno.ENOSPC else "mend that"
        raise CellSegError(f"{output}: cannot be written ({error.strerror or error}); {mend} and run again") from error


def _put_back(old: Path, output: Path) -> None:
    """Gives a dataset that was moved aside its name back, unless another has taken it."""
    if old.exists() and not output.exists():
        old.rename(output)
