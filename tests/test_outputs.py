"""Folders that commands write to: refused before the work, held by one run, and never mixed."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from drawing import read_folder

from cellseg_d2.errors import CellSegError
from cellseg_d2.outputs import (
    EVALUATION,
    LOCK_FILE,
    PREDICTION,
    TRAINING,
    appear_whole,
    claimed,
    locked,
    output_file,
    output_folder,
)


def _file(path):
    path.write_text("")
    return path


def _link(path, target):
    path.symlink_to(target)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tmp: _file(tmp / "out"), r"out: is a file; give a folder"),
        (lambda tmp: _file(tmp / "a") / "out", r"a: is a file; .*a/out cannot be made in it"),
        (lambda tmp: _link(tmp / "out", tmp / "gone"), r"out: is a link to .*gone, which is not there"),
        (lambda tmp: _link(tmp / "a", tmp / "gone") / "out", r"a: is a link to .*gone, which is not there"),
    ],
    ids=["a file", "in a file", "a dangling link", "in a dangling link"],
)
def test_a_folder_that_cannot_be_made_is_refused(make, message, tmp_path):
    with pytest.raises(CellSegError, match=message):
        output_folder(make(tmp_path))


def test_a_place_without_permission_is_refused():
    for check in (output_folder, output_file):  # nobody, root included, may write there
        with pytest.raises(CellSegError, match=r"no permission for /sys/kernel|cannot be written"), _written(check):
            pass


def _written(check):
    return locked(check("/sys/kernel/cellseg/out") / LOCK_FILE, "/sys/kernel/cellseg/out")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tmp: tmp, r"is a folder; give a file to write"),
        (lambda tmp: _link(tmp / "a.png", tmp / "gone"), r"a\.png: is a link to .*gone, which is not there"),
        (lambda tmp: _file(tmp / "a") / "b.png", r"a: is a file"),
    ],
    ids=["a folder", "a dangling link", "in a file"],
)
def test_a_file_that_cannot_be_written_is_refused(make, message, tmp_path):
    with pytest.raises(CellSegError, match=message):
        output_file(make(tmp_path))


def test_what_is_missing_is_made_later(tmp_path):
    assert output_file(tmp_path / "a" / "b" / "c.png") == tmp_path / "a" / "b" / "c.png"
    assert output_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_a_run_is_refused_with_the_ways_out(tmp_path):
    for name in ("model_0000009.pth", "last_checkpoint", "metrics.json", "log.txt", "notes.txt"):
        (tmp_path / name).write_text("old")
    before = read_folder(tmp_path)
    ways = "give --resume to go on with it, another OUTPUT_DIR, or --overwrite to replace it"
    with (
        pytest.raises(CellSegError, match=f"holds a training already; {ways}"),
        claimed(tmp_path, TRAINING, may_hold=False),
    ):
        pass
    assert read_folder(tmp_path) == before
    TRAINING.remove(tmp_path)
    assert read_folder(tmp_path) == {"notes.txt": b"old"}


def test_results_go_with_their_folders_and_nothing_else(tmp_path):
    names = [
        "csv/a/b.csv",
        "labels/a/labels.tif",
        "labelme/a.json",
        "cellpose/b/a_seg.npy",
        "cellpose/b/a_cp_masks.png",
    ]
    names += ["annotations/instances_default.json", "test-results.json", "csv/thesis.txt", ".parts/settings"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    _file(tmp_path / "test-results.image_ids.json")  # of results merged into this folder; it would count for new ones
    assert PREDICTION.is_in(tmp_path)
    PREDICTION.remove(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["csv", "csv/thesis.txt"]


def test_files_of_the_user_that_are_called_like_results_are_never_removed(tmp_path):
    for name in ("labels/a.tif", "csv/a.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("years of work")
    before = read_folder(tmp_path)
    with pytest.raises(CellSegError, match="holds files with names of results, but nothing says that they are"):
        PREDICTION.remove(tmp_path)
    assert read_folder(tmp_path) == before


def test_an_evaluation_does_not_replace_the_metrics_of_a_training(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    with (
        pytest.raises(CellSegError, match="holds another run, whose files would be replaced"),
        claimed(tmp_path, EVALUATION, may_hold=True),
    ):
        pass


def test_a_folder_without_anything_written_goes_again(tmp_path):
    with claimed(tmp_path / "new", TRAINING, may_hold=False):
        assert (tmp_path / "new" / LOCK_FILE).is_file()
    (tmp_path / "there").mkdir()
    with claimed(tmp_path / "there", TRAINING, may_hold=False):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


HOLDS = """
import sys, time
from pathlib import Path
from cellseg_d2.outputs import PREDICTION, claimed
with claimed(Path(sys.argv[1]), PREDICTION, may_hold=False):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that writes to a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_run_is_refused_and_told_of_the_first(holder, tmp_path):
    owner = json.loads((tmp_path / "out" / LOCK_FILE).read_text())
    assert (owner["pid"], owner["host"]) == (holder.pid, socket.gethostname())
    named = f"out: is being written to by process {holder.pid} on {socket.gethostname()}, begun {owner['started'][:4]}"
    with pytest.raises(CellSegError) as caught, claimed(tmp_path / "out", PREDICTION, may_hold=True):
        pass
    assert named in str(caught.value) and str(tmp_path / "out") in owner["command"] in str(caught.value)
    assert "wait until that ends, or give another --output" in str(caught.value)
    assert json.loads((tmp_path / "out" / LOCK_FILE).read_text()) == owner


def test_a_link_to_the_folder_has_the_same_lock(holder, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(CellSegError, match="is being written to"), claimed(tmp_path / "link", TRAINING, may_hold=True):
        pass


def test_the_lock_of_a_dead_process_is_free(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "out" / LOCK_FILE).is_file()
    with claimed(tmp_path / "out", TRAINING, may_hold=False):
        assert json.loads((tmp_path / "out" / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "out").is_dir() or not list((tmp_path / "out").iterdir())


def test_two_runs_do_not_make_one_folder(tmp_path):
    with appear_whole(tmp_path / "out", False) as folder:
        (folder / "a").write_text("first")
        with pytest.raises(CellSegError, match="is being written to"), appear_whole(tmp_path / "out", True):
            pass
    assert read_folder(tmp_path) == {"out/a": b"first"}


@pytest.mark.parametrize("leave", [_file, lambda path: _link(path, path.parent / "gone"), lambda path: path.mkdir()])
def test_what_a_crash_left_never_blocks(leave, tmp_path):
    with appear_whole(tmp_path / "out", False) as folder:
        (folder / "dataset.json").write_text("1")
    for name in (".out.partial", ".out.old"):
        leave(tmp_path / name)
    with appear_whole(tmp_path / "out", True) as folder:
        (folder / "dataset.json").write_text("2")
    assert read_folder(tmp_path) == {"out/dataset.json": b"2"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    (tmp_path / "disk" / "out").mkdir()
    with appear_whole(tmp_path / "out", False) as folder:
        (folder / "dataset.json").write_text("1")
    assert (tmp_path / "out").is_symlink()
    assert read_folder(tmp_path / "disk") == {"out/dataset.json": b"1"}
