"""The same tasks in this process, in worker processes and on a Dask cluster; a killed worker is one clear line."""

import logging
import math
import operator
import os
import signal
import socket
from functools import partial
from pathlib import Path

import pytest

from cellseg_d2.conversion.executors import InlineExecutor, open_executor, run_unordered
from cellseg_d2.errors import CellSegError


class CountingExecutor(InlineExecutor):
    """Counts what was handed out."""

    submitted = 0

    def submit(self, fn, /, *args, **kwargs):
        self.submitted += 1
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("in_flight", [1, 3, 100])
def test_each_item_gives_one_result_with_its_position(count, in_flight):
    items = [number * number for number in range(count)]
    results = list(run_unordered(InlineExecutor(), math.isqrt, items, in_flight))
    assert sorted(results) == [(number, number) for number in range(count)]


def test_no_more_than_in_flight_are_handed_out():
    executor = CountingExecutor()
    for taken, _ in enumerate(run_unordered(executor, abs, range(20), 3), start=1):
        assert executor.submitted <= taken - 1 + 3
    assert executor.submitted == 20


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_is_this_process(workers):
    with open_executor(workers) as executor:
        (result,) = run_unordered(executor, lambda _: os.getpid(), [None], 1)  # no process could be sent a lambda
    assert result == (0, os.getpid())


def test_a_tasks_error_comes_through():
    with pytest.raises(ZeroDivisionError):
        list(run_unordered(InlineExecutor(), partial(operator.truediv, 1), [1, 0, 2], 2))


def test_after_an_error_no_task_is_begun_and_none_still_runs(tmp_path):
    places = [tmp_path / "missing" / "file", *(tmp_path / str(number) for number in range(3000))]
    with open_executor(2) as executor, pytest.raises(FileNotFoundError):
        list(run_unordered(executor, Path.touch, places, len(places)))
    begun = len(list(tmp_path.iterdir()))
    assert begun < 3000
    with open_executor(2) as executor:  # time for one that were still running
        list(run_unordered(executor, abs, range(4), 2))
    assert len(list(tmp_path.iterdir())) == begun


def test_worker_processes_give_results_errors_and_one_line_when_one_is_killed():
    with open_executor(2) as executor:
        assert sorted(run_unordered(executor, abs, [-3, -2, -1], 2)) == [(0, 3), (1, 2), (2, 1)]
        with pytest.raises(ZeroDivisionError):
            list(run_unordered(executor, partial(operator.truediv, 1), [1, 0], 2))
        with pytest.raises(CellSegError, match=r"^a worker process was killed, perhaps for lack of memory"):
            list(run_unordered(executor, signal.raise_signal, [signal.SIGKILL] * 3, 2))
        with pytest.raises(CellSegError, match=r"a worker process was killed"):  # nor does it wait for ever afterwards
            list(run_unordered(executor, abs, [1], 1))


@pytest.mark.parametrize(
    "address", ["", "tcp://", "localhost:8786", "tcp://127.0.0.1", "tcp://127.0.0.1:port", "udp://a:1"]
)
def test_an_address_that_is_none_is_refused(address):
    message = rf"--scheduler {address}: write the address as tcp://HOST:PORT"
    with pytest.raises(CellSegError, match=message), open_executor(1, address):
        pass


def test_a_scheduler_that_does_not_answer_is_refused():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # nothing listens there
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        message = rf"^the Dask scheduler {address} does not answer \(.*refused\)$"
        with pytest.raises(CellSegError, match=message), open_executor(1, address):
            pass


def test_a_killed_dask_worker_is_one_clear_line():
    import dask
    from distributed import LocalCluster

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        cluster = LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.CRITICAL
        )
    with (
        cluster,
        pytest.raises(CellSegError, match=r"^a Dask worker was killed, perhaps for lack of memory"),
        open_executor(1, cluster.scheduler_address) as executor,
    ):
        assert list(run_unordered(executor, abs, [-2], 1)) == [(0, 2)]
        list(run_unordered(executor, signal.raise_signal, [signal.SIGKILL], 1))
