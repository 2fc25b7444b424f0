"""Runs tasks in this process, in worker processes or on a Dask cluster, behind one interface."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cellseg_d2.errors import CellSegError

Item = TypeVar("Item")
Result = TypeVar("Result")


class InlineExecutor(Executor):
    """Runs each task in this process as it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs ``fn`` now and returns a finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def open_executor(workers: int, scheduler: str | None = None) -> Iterator[Executor]:
    """An executor with ``workers`` processes, or on the Dask cluster at ``scheduler`` (``tcp://HOST:PORT``).

    The cluster's workers must see the same file system under the same paths.

    Raises:
        CellSegError: Dask is not installed, or the scheduler does not answer.
    """
    if scheduler is not None:
        with _dask_executor(scheduler) as executor:
            yield executor
    elif workers <= 1:
        yield InlineExecutor()
    else:
        # spawn, because a forked child may inherit a lock that a thread of the parent holds
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_end_with_the_parent) as pool:
            try:
                yield pool
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _end_with_the_parent() -> None:
    """Ends this worker process when its parent ends, even by SIGKILL, so that no orphan continues to write."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


@contextmanager
def _dask_executor(scheduler: str) -> Iterator[Executor]:
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise CellSegError("--scheduler needs Dask: pip install 'cellseg_d2[dask]'") from error
    # Tested first, since a Client without a scheduler delays the interpreter's exit and ends it with a traceback.
    try:
        address = urlsplit(scheduler)
        host, port = address.hostname, address.port
    except ValueError:
        host = port = None
    if host is None or port is None or address.scheme != "tcp":
        raise CellSegError(f"--scheduler {scheduler}: write the address as tcp://HOST:PORT")
    try:
        socket.create_connection((host, port), timeout=10).close()
        client = Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise CellSegError(f"the Dask scheduler {scheduler} does not answer ({error})") from error
    with client, client.get_executor() as executor:
        try:
            yield executor
        except KilledWorker as error:
            raise CellSegError("a Dask worker was killed, perhaps for lack of memory; give the workers more") from error


def run_unordered(
    executor: Executor, function: Callable[[Item], Result], items: Sequence[Item], in_flight: int
) -> Iterator[tuple[int, Result]]:
    """Yields (index of the item, result) as tasks end; at most ``in_flight`` tasks are handed out at a time.

    Raises:
        CellSegError: a worker process was killed, usually for lack of memory.
    """
    pending: dict[Future[Result], int] = {}
    waiting = iter(enumerate(items))
    try:
        while True:
            while len(pending) < in_flight and (entry := next(waiting, None)) is not None:
                pending[executor.submit(function, entry[1])] = entry[0]
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield pending.pop(future), future.result()
    except BrokenProcessPool as error:
        raise CellSegError("a worker process was killed, perhaps for lack of memory; try fewer --workers") from error
    finally:  # after an error, wait for tasks that already run, so that nothing is written afterwards
        wait([future for future in pending if not future.cancel()])
