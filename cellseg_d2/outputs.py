"""Where commands write: checked before the work starts, kept to one run at a time, and never two runs mixed."""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from cellseg_d2.errors import CellSegError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
"""In a folder that is being written to; names the run that does so."""


@dataclass(frozen=True)
class Kind:
    """What a kind of run leaves in its folder.

    Attributes:
        name: what messages call it.
        marks: patterns of names; one that matches says that such a run is there.
        files: patterns of all else that it writes, which go with it.
        option: what names the folder on the command line.
        resumes: the option that goes on with such a run; empty where there is none.
        not_beside: patterns of names that are not to be in such a folder, and never removed.
        proof: patterns of which one matches where such a run has written the folder; without it nothing is removed, as
            other files may have names like ``labels/a.tif``. Empty where the marks are proof enough.
    """

    name: str
    marks: tuple[str, ...]
    files: tuple[str, ...] = ()
    option: str = "--output"
    resumes: str = ""
    not_beside: tuple[str, ...] = ()
    proof: tuple[str, ...] = ()

    def is_in(self, folder: Path) -> bool:
        """Whether a folder holds such a run."""
        return holds(folder, self.marks)

    def refuse(self, folder: Path) -> None:
        """Raises CellSegError, with the ways out, where a folder holds such a run."""
        if self.is_in(folder):
            goes_on = f"{self.resumes} to go on with it, " if self.resumes else ""
            raise CellSegError(
                f"{folder}: holds {self.name} already; give {goes_on}another {self.option}, "
                "or --overwrite to replace it"
            )

    def remove(self, folder: Path) -> None:
        """Removes such a run, and nothing else, from a folder.

        Raises:
            CellSegError: something cannot be removed, or such a run did not write the folder.
        """
        if self.proof and self.is_in(folder) and not holds(folder, self.proof):
            raise CellSegError(
                f"{folder}: holds files with names of {self.name}, but nothing says that they are; give another "
                f"{self.option}, or remove them"
            )
        for path in [path for pattern in (*self.files, *self.marks) for path in folder.glob(pattern)]:
            remove(path)
            for above in path.parents:
                if above == folder or any(above.iterdir()):
                    break
                above.rmdir()


CHECKPOINTS = ("last_checkpoint", "model_[0-9]*.pth", "model_final.pth", "model_best*.pth")
"""Patterns of what no command but a training removes."""

TRAINING = Kind(
    "a training",
    (*CHECKPOINTS, "metrics.json"),
    ("config.yaml", "log.txt*", "events.out.tfevents.*", "model_*.pth.partial", "last_checkpoint.partial"),
    option="OUTPUT_DIR",
    resumes="--resume",
)
PREDICTION = Kind(
    "results",
    (
        *("test-results.json", "image_ids.json", "geojson/**/*.geojson", "rois/**/*.zip", "labels/**/*.tif"),
        *("annotations/instances_default.json", "labelme/**/*.json", "cellpose/**/*_seg.npy"),
        *("cellpose/**/*_cp_masks.png", "cellpose/**/*_cp_masks.tif", "csv/**/*.csv", "overlays/**/*.png"),
    ),
    (
        *("counts.csv", "prediction.json", "skipped.json"),
        *("test-results.zip", "test-results.json.*", "test-results.image_ids.json"),
        *(".parts/settings", ".parts/*.json*"),
    ),
    proof=("prediction.json", "test-results.json", "image_ids.json", ".parts/settings"),
)
MODEL = Kind(
    "a model",
    ("network.onnx", "model.json", "rdf.yaml", "run.py", "README.md", "cover.png", "test_*.npy"),
    proof=("model.json",),
)
STUDY = Kind("a study", ())  # it goes on by itself, and refuses one of other settings
EVALUATION = Kind(
    "an evaluation",
    ("metrics.csv",),
    ("metrics.json", "counts.csv", "confusion.csv", "thresholds.json"),
    not_beside=(*CHECKPOINTS, "prediction.json"),  # results have a counts.csv too
)
AUDIT = Kind(
    "an audit",
    ("audit.json", "audit.csv"),
    ("audit.html", "geojson/**/*.geojson"),
    not_beside=("prediction.json",),  # results have a folder geojson too
)
RANKING = Kind("a ranking", ("ranking.csv",), ("ranking.html",))


def holds(folder: Path, patterns: Iterable[str]) -> bool:
    """Whether a folder has an entry whose name matches one of some patterns."""
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with all that is in it; nothing where nothing is.

    Raises:
        CellSegError: it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise CellSegError(f"{path}: cannot be removed ({error.strerror}); remove it and run again") from error


def output_file(text: str | os.PathLike[str]) -> Path:
    """An argument type: a file to write, whose folders are made when it is written.

    Raises:
        CellSegError: it could not be written.
    """
    path = Path(text)
    if path.is_dir():
        raise CellSegError(f"{path}: is a folder; give a file to write")
    if path.exists() and not os.access(path, os.W_OK):
        raise CellSegError(f"{path}: cannot be written (it is read-only); give another file")
    _refuse_dangling(path)
    output_folder(Path(os.path.realpath(path)).parent)
    return path


def output_folder(text: str | os.PathLike[str]) -> Path:
    """An argument type: a folder to write to, which is made, with those above it, when the first file is written.

    Raises:
        CellSegError: it could not be made or written to.
    """
    folder = Path(text)
    above = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    _refuse_dangling(above)
    if not above.is_dir():
        fix = "give a folder" if above == folder else f"{folder} cannot be made in it"
        raise CellSegError(f"{above}: is a file; {fix}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise CellSegError(f"{folder}: cannot be written (no permission for {above}); give another folder")
    return folder


def _refuse_dangling(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise CellSegError(
            f"{path}: is a link to {os.readlink(path)}, which is not there; make that, or remove the link"
        )


@contextmanager
def claimed(folder: Path, kind: Kind, *, may_hold: bool) -> Iterator[None]:
    """A folder for one run alone, as long as the context lasts.

    Args:
        folder: is made; it goes again if nothing was written to it.
        kind: what the run will leave.
        may_hold: an earlier one may be there, which the run goes on with, or removes when its input has been checked.

    Raises:
        CellSegError: another run is writing to it, it holds an earlier run, or it cannot be written to.
    """
    output_folder(folder)
    made = not folder.exists()
    try:
        with locked(folder / LOCK_FILE, folder, kind.option):
            check_free(folder, kind, may_hold=may_hold)
            yield
    finally:
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def check_free(folder: Path, kind: Kind, *, may_hold: bool) -> None:
    """What :func:`claimed` checks of a folder, for the other processes of its run."""
    if holds(folder, kind.not_beside):
        raise CellSegError(f"{folder}: holds another run, whose files would be replaced; give another {kind.option}")
    if not may_hold:
        kind.refuse(folder)


@contextmanager
def locked(lock_file: Path, output: Path, option: str = "--output") -> Iterator[None]:
    """Holds a lock, which names this process; the system releases that of a process that has died.

    Args:
        lock_file: is made, with its folder, and removed at the end.
        output: what is locked, for messages.
        option: what names it on the command line.

    Raises:
        CellSegError: another process holds the lock, or it cannot be written.
    """
    lock = FileLock(lock_file, on_acquired=_sign)
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise CellSegError(
            f"{output}: is being written to by {_owner(lock_file)}; wait until that ends, or give another {option}"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise CellSegError(f"{output}: cannot be written ({error.strerror}); give another {option}") from error
        logger.warning("%s: its file system has no locks; start no second run that writes there", output)
    try:
        yield
    finally:
        if lock.is_locked:
            lock_file.unlink(missing_ok=True)  # while it is held: nobody can have taken it
            lock.release()


def _sign(descriptor: int) -> None:
    """Writes into a lock who holds it."""
    command = shlex.join([*sys.argv[0].split(), *sys.argv[1:]])
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command,
        "started": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
    os.ftruncate(descriptor, 0)  # a dead process may have left its own words, and filelock keeps them
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(owner).encode())


def _owner(lock_file: Path) -> str:
    """Who holds a lock, in words."""
    try:
        owner = json.loads(lock_file.read_text(encoding="utf-8"))
        command = " ".join(str(owner["command"]).split())[:200]
        return f"process {owner['pid']} on {owner['host']}, begun {owner['started']} ({command})"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or just ended
        return "another run"


@contextmanager
def appear_whole(output: Path, overwrite: bool, mark: str = "dataset.json") -> Iterator[Path]:
    """A folder beside ``output`` to write into; it takes ``output``'s place at the end, or goes if anything fails.

    Args:
        output: the folder that is to appear; a link is followed.
        overwrite: replace one that is there.
        mark: a file that each such folder has; a folder without it is somebody else's and never replaced.

    Raises:
        CellSegError: ``output`` is there already, another run is making it, or it cannot be written.
    """
    output_folder(output)
    target = Path(os.path.realpath(output))
    partial_folder, old, lock = (target.with_name(f".{target.name}.{end}") for end in ("partial", "old", "lock"))
    with locked(lock, output):
        _put_back(old, target)  # of a run that was killed between the two renames
        if target.exists() and any(target.iterdir()):
            if not overwrite:
                raise CellSegError(f"{output}: exists already; give another --output, or --overwrite to replace it")
            if not (target / mark).is_file():
                raise CellSegError(
                    f"{output}: is no converted dataset, so it is not overwritten (it has no {mark}); "
                    "give another --output"
                )
        try:
            for leftover in (partial_folder, old):  # of a run that was killed
                remove(leftover)
            partial_folder.mkdir(parents=True)
            yield partial_folder
            if target.exists():
                target.rename(old)
            partial_folder.rename(target)
            remove(old)
        except BaseException as error:
            shutil.rmtree(partial_folder, ignore_errors=True)
            _put_back(old, target)
            if not isinstance(error, OSError):
                raise
            fix = "make room there" if error.errno == errno.ENOSPC else "fix that"
            raise CellSegError(
                f"{output}: cannot be written ({error.strerror or error}); {fix} and run again"
            ) from error


def _put_back(old: Path, output: Path) -> None:
    """Gives a folder that was moved aside its name back, unless another has taken it."""
    if old.is_dir() and not output.exists():
        old.rename(output)
