"""Training goes on with more images, as docs/start.md says: real trainings of two iterations."""

import json
import shutil

import pytest

QUICK = [
    *("--config-file", "mask_rcnn_lite0_FPN", "CELLSEG.DATASET", "cells", "SEED", "1", "DATALOADER.NUM_WORKERS", "0"),
    *("INPUT.CROP.SIZE", "[96, 96]", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "2"),
    *("TEST.DETECTIONS_PER_IMAGE", "50"),
]


@pytest.fixture
def part(sample_root, tmp_path):
    """A folder with some of the sample's images."""

    def make(name, chosen):
        for folder in sorted((sample_root / "train").iterdir())[chosen]:
            shutil.copytree(folder, tmp_path / name / "train" / folder.name)
        return tmp_path / name

    return make


def test_a_training_goes_on_with_more_images(run_tool, part, repo_root, tmp_path):
    dataset = tmp_path / "datasets" / "cells"
    place = {"cwd": repo_root, "DETECTRON2_DATASETS": str(dataset.parent), "CUDA_VISIBLE_DEVICES": ""}

    def run(name, *arguments):
        done = run_tool(name, *arguments, **place)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    run("convert_tifs", "--input", part("today", slice(0, 6)), "--output", dataset, "--workers", 1)
    tiles = json.loads((dataset / "dataset.json").read_text())["counts"]["train"]["tiles"]
    run("train_net", *QUICK, "OUTPUT_DIR", tmp_path / "today_model")
    shutil.rmtree(tmp_path / "today")
    run("convert_tifs", "--input", part("tomorrow", slice(4, 9)), "--add-to", dataset, "--workers", 1)
    summary = json.loads((dataset / "dataset.json").read_text())
    assert len(summary["images"]["train"] + summary["images"]["val"]) == 9
    assert summary["counts"]["train"]["tiles"] > tiles
    best = tmp_path / "today_model" / "model_best.pth"
    log = run("train_net", *QUICK, "MODEL.WEIGHTS", best, "OUTPUT_DIR", tmp_path / "tomorrow_model")
    assert f"epochs of {summary['counts']['train']['tiles']} tiles" in log
    assert str(best) in log
    assert (tmp_path / "tomorrow_model" / "model_best.pth").is_file()
