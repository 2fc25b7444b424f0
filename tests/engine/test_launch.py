import os
import stat
import subprocess
import sys

import pytest

from cellseg_d2.engine.launch import StartedProcess, check_loopback, started_process
from cellseg_d2.errors import CellSegError

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SLURM = {
    **{"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"},
    **{"SLURM_STEP_NODELIST": "node[07-08]", "SLURM_JOB_ID": "1234567"},
}


def test_torchruns_variables_are_recognised():
    assert started_process(TORCHRUN) == StartedProcess(3, 4, 1, 2, "env://")


def test_slurms_variables_are_recognised(monkeypatch, tmp_path):
    command = tmp_path / "scontrol"
    command.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[07-08]" ] && printf "node07\\nnode08\\n"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert started_process(SLURM) == StartedProcess(3, 4, 1, 2, "tcp://node07:34567")


def test_a_meeting_place_that_is_given_wins():
    given = {**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert started_process(given).url == "tcp://10.0.0.1:29500"


def test_tasks_on_one_machine_meet_there():
    alone = {**SLURM, "SLURM_STEP_NUM_NODES": "1"}
    assert started_process(alone) == StartedProcess(3, 4, 1, 4, "tcp://127.0.0.1:34567")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {**TORCHRUN, "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"},
    ],
    ids=["nothing", "one process", "one task", "a batch script"],
)
def test_a_process_by_itself_is_none_of_several(environment):
    assert started_process(environment) is None


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({**TORCHRUN, "WORLD_SIZE": "5"}, "as many on each machine"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "5"}, "shared evenly"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "1"}, "SLURM_JOB_ID"),
        ({**SLURM, "SLURM_STEP_NODELIST": "x", "PATH": ""}, "set MASTER_ADDR"),
    ],
    ids=["uneven", "uneven tasks", "incomplete", "no scontrol"],
)
def test_processes_that_cannot_meet_are_refused(environment, named, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CellSegError, match=named):
        started_process(environment)


def test_processes_of_one_machine_can_meet():
    check_loopback()


def test_a_meeting_place_that_this_machine_does_not_have_is_one_line():
    with pytest.raises(CellSegError, match=r"meet at 192\.0\.2\.1, which cannot be reached here .*lo up") as raised:
        check_loopback("192.0.2.1")  # of a net that is kept for documentation
    assert "\n" not in str(raised.value)


FAILING = """
import sys, time
from argparse import Namespace

import torch.distributed as dist
from detectron2.utils import comm

from cellseg_d2.engine.launch import launch
from cellseg_d2.errors import CellSegError


def work():
    if comm.get_rank() == int(sys.argv[1]):
        dist.destroy_process_group()
        time.sleep(3)  # as one that is slow to end
        raise CellSegError("the cause")
    comm.all_gather(1)


if __name__ == "__main__":
    launch(work, Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto"))
"""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_loses_the_failing_one_lets_it_report_the_cause(rank, tmp_path, repo_root):
    (tmp_path / "failing.py").write_text(FAILING)
    environment = {**os.environ, "PYTHONPATH": str(repo_root), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, tmp_path / "failing.py", rank]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stderr.rstrip().splitlines()[-1] == "cellseg_d2.errors.CellSegError: the cause"


COMMANDS = {
    "train": ["train", "--config-file", "mask_rcnn_lite0_FPN", "CELLSEG.DATASET", "nuclei", "OUTPUT_DIR"],
    "predict": ["predict", "--weights", "nuclei", "--input", "datasets/sample/test_release", "--output"],
}


@pytest.mark.namespace
@pytest.mark.parametrize("verb", COMMANDS)
def test_without_a_loopback_several_processes_are_refused_before_they_start(verb, nuclei, repo_root, tmp_path):
    """In a network namespace of its own, where nothing is up."""
    words = [verb, "--num-gpus", "2", *COMMANDS[verb][1:], str(tmp_path / "output")]
    command = ["unshare", "-rn", sys.executable, "-m", "cellseg_d2", *words]
    places = {"PYTHONPATH": str(repo_root), "DETECTRON2_DATASETS": str(nuclei.parent), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=repo_root, env={**os.environ, **places}, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: several processes on one machine meet at 127.0.0.1, which")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "output").exists()
