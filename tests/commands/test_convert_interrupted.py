"""No other process sees a conversion half done: a run that is killed, and one whose disk is full."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time

import psutil
import pytest
from drawing import read_folder


@pytest.fixture
def start(repo_root, sample_root, tmp_path):
    """Starts to convert the sample to ``cells`` with two workers, in a process group of its own."""
    started = []

    def run(*options):
        command = [sys.executable, repo_root / "tools" / "convert_tifs.py", "--input", sample_root, "--workers", "2"]
        environment = {**os.environ, "PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*command, "--output", tmp_path / "cells", *options],
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        kill_group(process)


def kill_group(process):
    """Kills a process and its workers, as a scheduler or the kernel would; it may have ended before."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition, process):
    """Looks every millisecond, until it is so or the process has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


TEST_IMAGES = 25  # they are written first


def images_written(count):
    """Whether an unfinished conversion has written so many images."""
    return lambda folder: folder.is_dir() and sum(1 for _ in folder.rglob("*.png")) >= count


@pytest.mark.parametrize(
    ("state", "overwrite"),
    [
        pytest.param(images_written(0), False, id="begun"),
        pytest.param(images_written(10), False, id="test images"),
        pytest.param(images_written(TEST_IMAGES + 10), False, id="10 tiles"),
        pytest.param(images_written(TEST_IMAGES + 50), False, id="50 tiles"),
        pytest.param(lambda folder: (folder / "annotations").exists(), False, id="annotations"),
        pytest.param(lambda folder: (folder / "annotations").exists(), True, id="annotations, over another dataset"),
        pytest.param(lambda folder: (folder / "dataset.json").exists(), False, id="summary"),
    ],
)
def test_killed_in_any_state_a_second_run_finishes_the_job(
    reference, run_tool, start, sample_root, tmp_path, state, overwrite
):
    before = {"dataset.json": b"{}", "train/old.png": b"of another run"}
    if overwrite:
        (tmp_path / "cells" / "train").mkdir(parents=True)
        for name, content in before.items():
            (tmp_path / "cells" / name).write_bytes(content)
    process = start(*(["--overwrite"] if overwrite else []))
    wait_until(lambda: state(tmp_path / ".cells.partial"), process)
    kill_group(process)
    if (tmp_path / "cells").exists():  # it appears whole or not at all
        assert read_folder(tmp_path / "cells") in ([before, reference] if overwrite else [reference])
    else:
        assert not overwrite or read_folder(tmp_path / ".cells.old") == before
    again = run_tool("convert_tifs", "--input", sample_root, "--output", tmp_path / "cells", "--overwrite")
    assert again.returncode == 0, again.stderr
    assert os.listdir(tmp_path) == ["cells"]
    assert read_folder(tmp_path / "cells") == reference


def test_workers_end_when_their_parent_alone_is_killed(start, tmp_path):
    process = start("--tile-size", "16", "--keep-empty")  # some 20,000 tiles, so that they are in the middle of them
    wait_until(lambda: images_written(TEST_IMAGES + 50)(tmp_path / ".cells.partial"), process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []


def test_a_disk_without_room_leaves_what_was_there(convert_tifs, repo_root, sample_root, tmp_path):
    assert convert_tifs().returncode == 0
    before = read_folder(tmp_path / "out")
    command = [sys.executable, repo_root / "tools" / "convert_tifs.py", "--input", sample_root, "--workers", "1"]
    done = subprocess.run(
        [*command, "--output", tmp_path / "out", "--overwrite"],
        env={**os.environ, "PYTHONPATH": str(repo_root)},
        # the kernel refuses to let any file grow beyond 20 kB
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot be written" in line
    assert "Traceback" not in done.stderr
    assert read_folder(tmp_path / "out") == before
    assert sorted(os.listdir(tmp_path)) == ["input", "out"]
