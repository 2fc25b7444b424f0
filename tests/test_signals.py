"""Signals to real processes."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from cellseg_d2.errors import Stopped
from cellseg_d2.signals import stop_request


def test_the_first_signal_asks_and_counts_once():
    before = signal.getsignal(signal.SIGTERM)
    with stop_request() as request:
        assert not request
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # within the second: a terminal's, and a launcher's
        assert request.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_later_signal_ends_at_once(monkeypatch):
    monkeypatch.setattr("cellseg_d2.signals.ONE_SECOND", 0.0)
    with pytest.raises(KeyboardInterrupt), stop_request():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)


def test_work_that_may_be_dropped_is_left_at_once():
    with stop_request() as request:
        with pytest.raises(Stopped) as caught, request.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        assert caught.value.exit_code == 143
        with pytest.raises(Stopped), request.at_once():
            pytest.fail("it had been asked before")


def test_threads_do_not_mind_signals():
    seen = []

    def work():
        with stop_request() as request:
            seen.append(bool(request))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


RUNS = """
import sys
from cellseg_d2.signals import run_to_its_end
run_to_its_end([sys.executable, "-c", "import time; print('child', flush=True); time.sleep(600)"])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_child_ends_with_its_parent(number):
    parent = subprocess.Popen([sys.executable, "-c", RUNS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout.readline() == b"child\n"
    (child,) = psutil.Process(parent.pid).children()
    parent.send_signal(number)
    parent.wait(timeout=30)
    parent.stdout.close()
    _, alive = psutil.wait_procs([child], timeout=30)
    assert alive == []
