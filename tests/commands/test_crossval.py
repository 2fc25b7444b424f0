"""Cross-validation as a user runs it: real trainings of two iterations on a few of the sample's images."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from pycocotools.coco import COCO

from cellseg_d2.export.record import Record

FOLDS = 2
IMAGES = 6
QUICK = [
    *("SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "2", "SEED", "1", "SOLVER.IMS_PER_BATCH", "2"),
    *("INPUT.CROP.SIZE", "[96, 96]", "DATALOADER.NUM_WORKERS", "0", "TEST.DETECTIONS_PER_IMAGE", "50"),
]


@pytest.fixture(scope="module")
def dataset(run_tool, sample_root, tmp_path_factory):
    """Six of the sample's images in two folds."""
    root = tmp_path_factory.mktemp("cells")
    for folder in sorted((sample_root / "train").iterdir())[:IMAGES]:
        shutil.copytree(folder, root / "input" / "train" / folder.name)
    output = root / "datasets" / "cells"
    arguments = ("--input", root / "input", "--output", output, "--folds", FOLDS, "--tile-size", 256, "--workers", 1)
    done = run_tool("convert_tifs", *arguments, "--intensity-rule", "range:0,200")  # which leaves 8 bit as it is
    assert done.returncode == 0, done.stderr
    assert "folds: 3 images, 3 images" in done.stdout
    return output


@pytest.fixture(scope="module")
def crossval(run_tool, dataset, tmp_path_factory):
    output = tmp_path_factory.mktemp("crossval")

    def run(*options, data=dataset):
        arguments = ("--dataset", data, "--config-file", "mask_rcnn_lite0_FPN", "--output", output)
        return run_tool("crossval", *arguments, *options, CUDA_VISIBLE_DEVICES=""), output

    return run


@pytest.fixture(scope="module")
def finished(crossval):
    done, output = crossval(*QUICK)
    assert done.returncode == 0, done.stderr
    return done, output


def test_it_leaves_a_table_with_mean_and_spread(finished):
    done, output = finished
    text = (output / "crossval.md").read_text()
    assert text in done.stdout
    assert "cellseg-d2 crossval --dataset" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["fold", "---", "1", "2", "mean ± standard deviation"]
    assert rows[0] == ["fold", "images", "AP50", "PQ", "F1"]
    content = json.loads((output / "crossval.json").read_text())
    assert [fold["images"] for fold in content["folds"]] == [3, 3]
    for name in ("AP50", "PQ", "F1"):
        values = [fold[name] for fold in content["folds"]]
        assert all(0 <= value <= 100 for value in values)
        assert content["mean"][name] == pytest.approx(sum(values) / FOLDS)
    for number in range(1, FOLDS + 1):
        files = {path.name for path in (output / f"fold{number}").iterdir()}
        assert {"model_best.pth", "settings.json", "result.json", "predictions", "train.log", "predict.log"} <= files
        assert not [name for name in files if name.startswith("model_0")]


def test_each_labelled_image_is_predicted_by_the_model_that_never_saw_it(finished, dataset, run_tool, tmp_path):
    _, output = finished
    results = json.loads((output / "out_of_fold" / "test-results.json").read_text())
    ids = json.loads((output / "out_of_fold" / "image_ids.json").read_text())
    truth = COCO(str(dataset / "annotations" / "instances_whole.json"))
    assert {entry["id"]: entry["file_name"] for entry in ids} == {
        image["id"]: f"{image['source']}.png" for image in truth.loadImgs(truth.getImgIds())
    }
    assert len(ids) == IMAGES
    count = 0
    for number in range(1, FOLDS + 1):
        annotations = dataset / "annotations"
        train = json.loads((annotations / f"instances_fold{number}_train.json").read_text())
        whole = json.loads((annotations / f"instances_fold{number}_val_whole.json").read_text())
        predicted = json.loads((output / f"fold{number}" / "predictions" / "test-results.json").read_text())
        assert {result["image_id"] for result in predicted} <= {image["id"] for image in whole["images"]}
        assert not {image["source"] for image in train["images"]} & {image["source"] for image in whole["images"]}
        assert all(result in results for result in predicted)
        count += len(predicted)
    assert len(results) == count > 0
    assert Record.read(output / "out_of_fold").intensity_rule == "range:0,200"  # so that export reads images by it
    arguments = ("--ground-truth", dataset / "annotations" / "instances_whole.json")
    done = run_tool(
        "evaluate", *arguments, "--predictions", output / "out_of_fold" / "test-results.json", "--output", tmp_path
    )
    assert done.returncode == 0, done.stderr
    done = run_tool(
        "export", "--results", output / "out_of_fold", "--output", tmp_path / "files", "--formats", "geojson"
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "files" / "geojson").iterdir())) == IMAGES


def test_what_is_there_is_not_trained_again_and_what_is_missing_is_made(finished, crossval):
    _, output = finished
    before = (output / "crossval.json").read_text()
    results = [output / f"fold{number}" / "result.json" for number in range(1, FOLDS + 1)]
    times = [path.stat().st_mtime_ns for path in results]
    done, _ = crossval(*QUICK)
    assert done.returncode == 0, done.stderr
    assert "training" not in done.stderr
    assert [path.stat().st_mtime_ns for path in results] == times
    # stopped before it predicted the images of the second fold
    results[1].unlink()
    shutil.rmtree(output / "fold2" / "predictions")
    weights = (output / "fold2" / "model_best.pth").stat().st_mtime_ns
    done, _ = crossval(*QUICK)
    assert done.returncode == 0, done.stderr
    assert (output / "fold2" / "model_best.pth").stat().st_mtime_ns == weights
    assert (output / "crossval.json").read_text() == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([*QUICK, "SOLVER.BASE_LR", "0.5"], "fold1: holds a run of other settings (SOLVER.BASE_LR)"),
        ([*QUICK, "CELLSEG.DATASET", "cells"], "CELLSEG.DATASET is another in each fold; leave it out"),
        ([*QUICK, "SOLVER.NO_SUCH_KEY", "3"], "NO_SUCH_KEY"),
    ],
    ids=["other settings", "its key", "unknown key"],
)
def test_it_refuses_in_one_line(options, named, finished, crossval):
    done, _ = crossval(*options)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert named in line
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_training_with_a_checkpoint(repo_root, dataset, tmp_path):
    command = [sys.executable, repo_root / "tools" / "crossval.py", "--dataset", dataset, "--output", tmp_path / "out"]
    command += ["--config-file", "mask_rcnn_lite0_FPN", *QUICK, "SOLVER.MAX_ITER", "1000", "TEST.EVAL_PERIOD", "0"]
    environment = {**os.environ, "PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log, deadline = tmp_path / "out" / "fold1" / "train.log", time.monotonic() + 300
    while not (log.is_file() and "Starting training" in log.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "to go on: the same command" in printed
    assert (tmp_path / "out" / "fold1" / "last_checkpoint").is_file()
    assert not (tmp_path / "out" / "fold2").exists()


def test_a_dataset_without_folds_is_refused(crossval, dataset, nuclei, tmp_path):
    for data, named in ((nuclei, "has no folds; convert with --folds 5"), (tmp_path, "is no converted dataset")):
        done, _ = crossval(data=data)
        assert done.returncode == 2
        assert f"error: {data}: {named}" in done.stderr
    damaged = tmp_path / "datasets" / "damaged"
    shutil.copytree(dataset, damaged)
    missing = damaged / "annotations" / "instances_fold2_val_whole.json"
    missing.unlink()
    done, _ = crossval(*QUICK, data=damaged)
    assert done.returncode == 2
    assert f"error: {missing}: cannot be read (No such file or directory); convert again" in done.stderr
