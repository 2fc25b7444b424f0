"""Several processes as a user starts them, on the CPU, against one process with the same batch."""

import json
import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest
import tifffile
from drawing import read_folder, write_drawn_dataset

from benchmarks.synthetic import dense_cells

LITE = "mask_rcnn_lite0_FPN"

CELLS = 9
"""In each image, so that both processes have as many RoIs to take the mean over."""

KEYS = [
    *("CELLSEG.DATASET", "drawn", "SEED", "1", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2"),
    # all anchors and all proposals are sampled: what is drawn at random would differ between processes
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "100000", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "100000"),
    *("MODEL.RPN.POSITIVE_FRACTION", "1.0", "MODEL.ROI_HEADS.POSITIVE_FRACTION", "1.0"),
    *("TEST.DETECTIONS_PER_IMAGE", "50", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "60", "INPUT.CROP.ENABLED", "False"),
    *("CELLSEG.AUG.AFFINE_PROB", "0.0"),  # it would move cells out of the image
]


@pytest.fixture(scope="module")
def place(repo_root, run_tool, tmp_path_factory):
    """Working directory and environment of a run on drawn cells."""
    root = tmp_path_factory.mktemp("drawn")
    write_drawn_dataset(root / "input", images=10, cells=CELLS)
    converted = run_tool("convert_tifs", "--input", root / "input", "--output", root / "datasets" / "drawn")
    assert converted.returncode == 0, converted.stderr
    environment = {"PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["DETECTRON2_DATASETS"] = str(root / "datasets")
    return {"cwd": repo_root, "env": {**os.environ, **environment}}


def _command(output, *options):
    command = ["tools/train_net.py", *options, "--config-file", LITE, *KEYS]
    return [*command, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(output)]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _wait(*processes):
    for process in processes:
        printed = process.communicate(timeout=300)[0]
        assert process.returncode == 0, printed


def _start(command, place, **env):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=place["cwd"], env={**place["env"], **env}, **streams)


def _metrics(output):
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return {name: value for line in lines for name, value in line.items()}


@pytest.fixture(scope="module")
def alone(place, tmp_path_factory):
    """The metrics of one process that trains on both images."""
    output = tmp_path_factory.mktemp("alone")
    _wait(_start([sys.executable, *_command(output)], place))
    return _metrics(output)


def _run_in_two(starter, place, command):
    """Runs a tool in two processes of this machine that are started in one of three ways."""
    if starter == "num-gpus":
        _wait(_start([sys.executable, command[0], "--num-gpus", "2", *command[1:]], place))
    elif starter == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
        _wait(_start([*torchrun, _free_port(), *command], place))
    else:
        step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": "7"}
        step |= {"SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": _free_port()}
        ranks = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
        _wait(*[_start([sys.executable, *command], place, **step, **rank) for rank in ranks])


@pytest.mark.parametrize("starter", ["num-gpus", "torchrun", "slurm"])
def test_two_processes_train_as_one_with_the_whole_batch(starter, place, alone, tmp_path):
    _run_in_two(starter, place, _command(tmp_path))
    together = _metrics(tmp_path)
    losses = [name for name in alone if name.startswith("loss_") or name == "total_loss"]
    assert {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"} < set(losses)
    for name in losses:
        assert together[name] == pytest.approx(alone[name], abs=1e-4), name
    # each validation image is scored once, and each validation loss counted once, by whichever process
    scores = [name for name in alone if name.startswith(("segm/", "bbox/", "validation/"))]
    assert "segm/AP50" in scores and "validation/total_loss" in scores
    for name in scores:
        assert together[name] == pytest.approx(alone[name], abs=1e-2, nan_ok=True), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(number, place, tmp_path):
    """The signal goes to the first process alone. Asked to end, the others save what they have."""
    command = _command(tmp_path, "--num-gpus", "2")
    command[command.index("SOLVER.MAX_ITER") + 1] = "1000"
    command[command.index("DATALOADER.NUM_WORKERS") + 1] = "1"
    parent = _start([sys.executable, *command, "TEST.EVAL_PERIOD", "0"], place)
    for line in parent.stdout:
        if "time: about" in line:  # some iterations are done
            break
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 4
    parent.send_signal(number)
    printed = parent.communicate(timeout=300)[0]
    _, alive = psutil.wait_procs(children, timeout=100)
    assert alive == []
    assert (tmp_path / "last_checkpoint").is_file()
    if number == signal.SIGTERM:
        assert parent.returncode == 143, printed
        assert f"to go on: python tools/train_net.py --resume --num-gpus 2 --config-file {LITE}" in printed
        assert "Traceback" not in printed


def test_processes_that_are_started_already_are_not_started_again(place, tmp_path):
    started = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    refused = _start([sys.executable, *_command(tmp_path, "--num-gpus", "2")], place, **started)
    printed = refused.communicate(timeout=300)[0]
    assert refused.returncode == 2
    assert "leave --num-gpus out" in printed


def _prediction(slide, output):
    command = ["tools/predict.py", "--weights", "nuclei", "--input", str(slide), "--output", str(output)]
    return [*command, "--tile-size", "64", "--formats", "coco", "geojson"]


@pytest.fixture(scope="module")
def slide(place, tmp_path_factory):
    """An image of 169 tiles of 64 px, and the files of what one process finds in it."""
    folder = tmp_path_factory.mktemp("slide")
    image, _ = dense_cells(600, 100, 1, (8.0, 14.0), seed=0)
    tifffile.imwrite(folder / "slide.tif", image, photometric="rgb")
    _wait(_start([sys.executable, *_prediction(folder / "slide.tif", folder / "alone")], place))
    return folder / "slide.tif", read_folder(folder / "alone")


@pytest.mark.parametrize("starter", ["num-gpus", "torchrun", "slurm"])
def test_two_processes_share_the_tiles_of_one_slide(starter, place, slide, tmp_path):
    path, alone = slide
    _run_in_two(starter, place, _prediction(path, tmp_path / "out"))
    assert read_folder(tmp_path / "out") == alone
    assert len(json.loads(alone["test-results.json"])) > 50
