"""Ctrl-C and SIGTERM: work that ends at a good place, and children that end with their parent."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from cellseg_d2.errors import Stopped

ENDING = (signal.SIGINT, signal.SIGTERM)

ONE_SECOND = 1.0
"""Signals that come within it count as one: a terminal, ``timeout`` and a launcher may each send theirs."""

_SET_DEATH_SIGNAL = 1
"""``PR_SET_PDEATHSIG`` of Linux's prctl(2)."""


class StopRequest:
    """Whether this process was asked to end.

    Attributes:
        signal: the number of the signal that asked; 0 before.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        self._at_once = False

    def __bool__(self) -> bool:
        return self.signal != 0

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, a request raises Stopped wherever the process is: for work that may be dropped."""
        if self:
            raise Stopped(self.signal)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def note(self, number: int, again: Callable[[], object]) -> bool:
        """Takes a signal; whether it is the first one. A later one calls ``again``."""
        now = time.monotonic()
        if not self:
            self.signal, self._since = number, now
            return True
        if now - self._since > ONE_SECOND:
            again()
        return False

    def raise_if_due(self) -> None:
        """Raises Stopped inside :meth:`at_once`."""
        if self._at_once:
            raise Stopped(self.signal)


def _interrupt() -> None:
    raise KeyboardInterrupt


@contextmanager
def stop_request(
    first: Callable[[], object] = lambda: None, again: Callable[[], object] = _interrupt
) -> Iterator[StopRequest]:
    """Within it, Ctrl-C and SIGTERM only ask the work to end, and a second one ends it at once.

    Outside of the main thread, which alone receives signals, it does nothing.

    Args:
        first: called at the first signal.
        again: called at each later one.
    """
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if request.note(number, again):
            first()
            request.raise_if_due()

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, handle) for number in ENDING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_to_its_end(command: Sequence[str], **options: Any) -> int:
    """Runs a command in a process that ends with this one, and waits for it.

    Args:
        command: the program and its arguments.
        options: keyword arguments of :class:`subprocess.Popen`.

    Returns:
        Its exit code.

    Raises:
        Stopped: a signal came, was passed on, and the process has ended; a second one kills it.
    """
    started: list[subprocess.Popen[bytes]] = []

    def end() -> None:
        for process in started:
            process.terminate()

    def kill() -> None:
        for process in started:
            process.kill()

    with stop_request(end, kill) as request:
        started.append(subprocess.Popen(command, preexec_fn=end_with_parent, **options))
        if request:  # before it was in the list
            end()
        code = started[0].wait()
    if request:
        raise Stopped(request.signal)
    return code


def ignore_ended_children() -> None:
    """Keeps torch from raising, at whatever place, when a loader's process ends: at a stop it got the signal too."""
    signal.signal(signal.SIGCHLD, lambda number, frame: None)


def end_with_parent() -> None:
    """Lets the system send this process SIGTERM when its parent ends, however that ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, int(signal.SIGTERM))
