"""Where the processor's time goes: functions that are replaced by ones that are timed, for a fresh process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any


class Stages:
    """Sums the seconds of the processor that stages take, in any thread.

    A stage inside another one counts for itself alone.

    Args:
        clock: what tells the seconds of the thread that asks.

    Attributes:
        seconds: by the name of the stage.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        self._of_thread = threading.local()

    def time(self, owner: Any, name: str, stage: str) -> None:
        """Replaces a function of a module, a class or an object by one that is timed."""
        setattr(owner, name, self.timed(getattr(owner, name), stage))

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """The function, timed."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._change_to(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self._change_to(None)

        return run

    def _change_to(self, stage: str | None) -> None:
        """Begins a stage of this thread, or ends the latest one."""
        now = self._clock()
        running: list[str] = self._of_thread.__dict__.setdefault("running", [])
        if running:
            with self._lock:
                self.seconds[running[-1]] = self.seconds.get(running[-1], 0.0) + now - self._of_thread.since
        if stage is None:
            running.pop()
        else:
            running.append(stage)
        self._of_thread.since = now
