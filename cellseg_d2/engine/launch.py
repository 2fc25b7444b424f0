"""Starts the processes of a run, or joins those that torchrun or Slurm started."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, set_start_method

from cellseg_d2.errors import CellSegError, Stopped, one_line
from cellseg_d2.signals import ENDING, end_with_parent, stop_request

FIRST_PORT, PORTS = 20_000, 20_000
"""The ports where a Slurm job's processes meet by default: one by the numbers of job and step, since several jobs may
share a machine."""

LOOPBACK = "127.0.0.1"

LOST_PEER = re.compile("Connection (closed|reset) by peer")
"""What Gloo says in a process that waits for one that has ended."""

LONGEST_END = 10
"""Seconds in which a process that fails has ended, torch's threads included."""


@dataclass(frozen=True)
class StartedProcess:
    """This process, where torchrun or Slurm started it with others, and where they meet.

    Attributes:
        rank: its number among all processes.
        world_size: the number of all processes.
        local_rank: its number among the processes of this machine.
        local_size: the number of processes on this machine, the same on each machine.
        url: where they meet, as ``torch.distributed.init_process_group`` takes it.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    url: str


def started_process(environment: Mapping[str, str] = os.environ) -> StartedProcess | None:
    """This process, from the environment variables of torchrun or ``srun``; None where neither started it.

    The variables are described in https://pytorch.org/docs/stable/elastic/run.html and in srun's manual. A step of
    ``srun`` counts; a batch script or an interactive shell inside an allocation does not.

    Raises:
        CellSegError: a variable is missing, or the processes are spread unevenly over the machines.
    """
    try:
        if {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} <= environment.keys():
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
            process = StartedProcess(*(int(environment[name]) for name in names), "env://")
        elif "SLURM_STEP_NUM_TASKS" in environment:
            process = _slurm_task(environment)
        else:
            return None
    except (KeyError, ValueError) as error:
        raise CellSegError(f"the processes' environment is incomplete: {error}") from error
    if process.world_size % process.local_size:
        raise CellSegError(
            f"{process.world_size} processes with {process.local_size} on this machine: start as many on each machine"
        )
    return process if process.world_size > 1 else None


def _slurm_task(environment: Mapping[str, str]) -> StartedProcess:
    size, machines = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_STEP_NUM_NODES"])
    if size % machines:
        raise ValueError(f"{size} tasks cannot be shared evenly by {machines} nodes")
    host = environment.get("MASTER_ADDR") or (LOOPBACK if machines == 1 else _first_host(environment))
    job = int(environment["SLURM_JOB_ID"]) + 997 * int(environment.get("SLURM_STEP_ID", 0))  # 997: steps lie apart
    port = environment.get("MASTER_PORT") or str(FIRST_PORT + job % PORTS)
    rank, local_rank = int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"])
    return StartedProcess(rank, size, local_rank, size // machines, f"tcp://{host}:{port}")


def _first_host(environment: Mapping[str, str]) -> str:
    """The machine of rank 0. Slurm's list of machines has a short form, which only Slurm's command reads."""
    command = ["scontrol", "show", "hostnames", environment["SLURM_STEP_NODELIST"]]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise CellSegError(f"the first machine of {command[-1]} is not known ({error}); set MASTER_ADDR") from error


def check_loopback(host: str = LOOPBACK) -> None:
    """Checks that processes of this machine can talk to each other.

    A connection is made: where the interface is down, an address of it can be bound nevertheless.

    Raises:
        CellSegError: they cannot.
    """
    try:
        with socket.create_server((host, 0)) as server, socket.create_connection(server.getsockname(), timeout=10):
            pass
    except OSError as error:
        raise CellSegError(
            f"several processes on one machine meet at {host}, which cannot be reached here ({one_line(error)}): bring "
            "the loopback interface up (ip link set lo up), or use one process"
        ) from error


def launch(
    main: Callable[..., Any], args: argparse.Namespace, *arguments: Any, timeout: timedelta = DEFAULT_TIMEOUT
) -> None:
    """Runs ``main(*arguments)`` in every process of a run.

    Under torchrun and ``srun`` this process is one of them already. Otherwise Detectron2's ``launch`` starts them.

    Args:
        main: a function of a module.
        args: has Detectron2's ``num_gpus``, ``num_machines``, ``machine_rank`` and ``dist_url``.
        arguments: arguments for ``main``.
        timeout: how long a process waits for the others.

    Raises:
        CellSegError: see :func:`started_process` and :func:`check_loopback`; what one of the processes raised; or that
            one was killed.
        Stopped: a signal ended the processes.
    """
    process = started_process()
    if (args.num_gpus if process is None else process.local_size) > 1:
        check_loopback()
    if process is None:
        places = {"num_machines": args.num_machines, "machine_rank": args.machine_rank, "dist_url": args.dist_url}
        if args.num_gpus * args.num_machines == 1:
            detectron2_launch(main, args.num_gpus, **places, args=arguments, timeout=timeout)
        else:
            with _children_stopped_too():
                detectron2_launch(_in_a_child, args.num_gpus, **places, args=(main, *arguments), timeout=timeout)
        return
    cuda = torch.cuda.is_available()
    if cuda:  # a task to which Slurm gave one GPU sees only this one
        torch.cuda.set_device(process.local_rank % torch.cuda.device_count())
    dist.init_process_group(
        backend="nccl" if cuda else "gloo",
        init_method=process.url,
        world_size=process.world_size,
        rank=process.rank,
        timeout=timeout,
    )
    comm.create_local_process_group(process.local_size)
    comm.synchronize()
    main(*arguments)
    dist.destroy_process_group()
    atexit.register(_end)


def _in_a_child(main: Callable[..., Any], *arguments: Any) -> None:
    """Runs ``main`` in a process that was started for it, and that is not to outlive the one that started it."""
    end_with_parent()
    if sys.platform == "linux":
        # As under torchrun. Processes of a loader that are spawned import torch anew, which takes long, and where this
        # one is killed meanwhile, they wait for it for ever.
        set_start_method("fork", force=True)
    try:
        main(*arguments)
    except Stopped as stopped:
        sys.exit(stopped.exit_code)
    except RuntimeError as error:
        if LOST_PEER.search(str(error)):
            time.sleep(LONGEST_END)  # the process that was lost has the cause to report; with it this one is ended
        raise
    _end()


def _end() -> None:
    """Ends a process of several that has done its work, without Python's own clearing up.

    In that, torch's threads abort one process in twenty since torch 2.11 ("terminate called without an active
    exception"), so that a run that has succeeded would end as one that failed.
    """
    for child in active_children():  # those that load tiles
        child.terminate()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def _children_stopped_too() -> Iterator[None]:
    """Ends the started processes with this one: the first Ctrl-C or SIGTERM is passed on, the second kills them.

    Raises:
        CellSegError: what one of them raised, or that one was killed.
        Stopped: they ended by a signal to this process, or to one of them.
    """

    def each(act: Callable[[BaseProcess], None]) -> None:
        for child in active_children():
            act(child)

    with stop_request(lambda: each(BaseProcess.terminate), lambda: each(BaseProcess.kill)) as request:
        try:
            yield
        except (ProcessRaisedException, ProcessExitedException) as error:
            if request:
                raise Stopped(request.signal) from error
            if isinstance(error, ProcessExitedException):
                raise _ended(error) from error
            if message := re.search(rf"^{CellSegError.__module__}\.CellSegError: (.*)", str(error), re.MULTILINE):
                raise CellSegError(message[1]) from error
            raise
        if request:
            raise Stopped(request.signal)


def _ended(error: ProcessExitedException) -> BaseException:
    """What it means that a process ended by itself."""
    if error.exit_code - 128 in ENDING:
        return Stopped(error.exit_code - 128)
    if -error.exit_code in ENDING:
        return Stopped(-error.exit_code)
    if error.signal_name is None:
        return error
    cause = "; so the system ends processes when memory runs out" if error.signal_name == "SIGKILL" else ""
    return CellSegError(
        f"one of the processes was ended by {error.signal_name}{cause}; run again, a training with --resume"
    )
