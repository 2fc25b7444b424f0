"""Training, evaluation and prediction as a user runs them: real processes on real data, for a few iterations."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from drawing import read_folder
from pycocotools.coco import COCO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cellseg_d2.weights.checkpoint import WeightsFile

ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}  # also where there are GPUs: results are compared to the bit
LITE = "configs/mask_rcnn_lite0_FPN.yaml"
QUICK = [
    *("CELLSEG.DATASET", "nuclei", "SEED", "1", "DATALOADER.NUM_WORKERS", "0", "INPUT.CROP.SIZE", "[96, 96]"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2"),
    *("TEST.DETECTIONS_PER_IMAGE", "50", "CELLSEG.EMA_DECAY", "0.9"),
]


@pytest.fixture(scope="module")
def nuclei(sample_root, run_tool, tmp_path_factory):
    """A dataset of a dozen of the sample's images: each evaluation goes through the validation part."""
    root = tmp_path_factory.mktemp("dozen")
    (root / "input" / "train").mkdir(parents=True)
    for folder in sorted((sample_root / "train").iterdir())[:12]:
        (root / "input" / "train" / folder.name).symlink_to(folder)
    done = run_tool("convert_tifs", "--input", root / "input", "--output", root / "datasets" / "nuclei")
    assert done.returncode == 0, done.stderr
    return root / "datasets" / "nuclei"


@pytest.fixture(scope="module")
def train(run_tool, nuclei, repo_root):
    def run(*args):
        place = {"cwd": repo_root, "DETECTRON2_DATASETS": str(nuclei.parent), **ON_CPU}
        return run_tool("train_net", "--config-file", "mask_rcnn_lite0_FPN", *args, **place)  # a config by its name

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """A folder in which four iterations were trained, and what the process printed."""
    output = tmp_path_factory.mktemp("trained")
    done = train(*QUICK, "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", output)
    assert done.returncode == 0, done.stderr
    return output, done.stdout + done.stderr


def _metrics(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def _overlays(output):
    """Of each picture in a folder's event files: its tag, the iterations it was drawn at, and their sizes."""
    events = EventAccumulator(str(output), size_guidance={"images": 0}).Reload()
    images = {tag: events.Images(tag) for tag in events.Tags()["images"]}
    return {
        tag: {one.step: cv2.imdecode(np.frombuffer(one.encoded_image_string, np.uint8), 1).shape for one in own}
        for tag, own in images.items()
    }


def _one_error_line(done):
    """The single line that a user reads, of a process that refused its input."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def test_training_leaves_what_is_needed_to_go_on_and_to_look_at(trained):
    output, printed = trained
    files = {path.name for path in output.iterdir()}
    assert {"model_0000001.pth", "model_final.pth", "metrics.json", "config.yaml", "log.txt"} <= files
    assert {"model_best.pth", "model_best_ema.pth"} <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert "the model has 5.0 M parameters" in printed
    assert {"segm/AP50", "ema/segm/AP50", "validation/total_loss"} <= set(_metrics(output)[-1])
    # the ImageNet weights were found by their names: only what ImageNet does not have begins fresh
    assert "bottom_up" not in printed.split("initialised randomly: ")[1].split("; not used")[0]


def test_the_best_checkpoints_carry_a_least_score_per_class(trained):
    output, printed = trained
    scores = {
        name: _least_scores_of(output / f"{name}.pth") for name in ("model_best", "model_best_ema", "model_final")
    }
    assert [len(own) for own in scores.values()] == [4, 4, 0]
    assert "least scores of the best F1, from which prediction shows cells: class1 " in printed


def _least_scores_of(path):
    return WeightsFile.read(path).cfg().CELLSEG.INFERENCE.MIN_SCORES


def test_each_evaluation_draws_the_validation_images_with_the_most_cells(trained, nuclei):
    truth = json.loads((nuclei / "annotations" / "instances_val.json").read_text())
    cells = Counter(cell["image_id"] for cell in truth["annotations"])
    names = {image["id"]: Path(image["file_name"]).stem for image in truth["images"]}
    drawn = _overlays(trained[0])
    assert sorted(drawn) == [f"overlays/{place}_{names[id]}" for place, (id, _) in enumerate(cells.most_common(2), 1)]
    for sizes in drawn.values():
        assert list(sizes) == [1, 3]  # TEST.EVAL_PERIOD 2
        assert all(256 < max(height, width) <= 800 for height, width, _ in sizes.values())


def test_the_lines_that_matter_are_printed_and_all_are_in_the_log(trained):
    output, printed = trained
    before, _ = printed.split("Starting training from iteration 0")
    assert 5 < len(before.splitlines()) <= 30
    for line in ("data: nuclei_train (", "classes: class1, ", "validation: nuclei_val (", "model: ", "output: "):
        assert line in before
    log = (output / "log.txt").read_text()
    assert "Running with full config" in log and "Running with full config" not in printed
    assert "data: nuclei_train (" in log
    assert "\x1b" not in log + printed


def test_a_run_that_is_there_is_not_trained_over(trained, train):
    output, _ = trained
    before = read_folder(output)
    done = train(*QUICK, "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", output)
    assert "holds a training already; give --resume to go on with it, another OUTPUT_DIR" in _one_error_line(done)
    done = train("--resume", *QUICK, "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", output)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{output}: the training has ended after 4 iterations; raise SOLVER.MAX_ITER to go on\n"
    assert read_folder(output) == before


def test_a_run_is_replaced_on_demand(trained, train, tmp_path):
    for path in trained[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    done = train("--overwrite", *QUICK, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "model_0000001.pth").exists()
    assert {record["iteration"] for record in _metrics(tmp_path)} == {0}


def test_resume_goes_on_where_it_stopped(trained, train, tmp_path):
    output, _ = trained
    for name in ("model_0000001.pth", "model_best.pth"):
        (tmp_path / name).write_bytes((output / name).read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    done = train("--resume", *QUICK, "SOLVER.MAX_ITER", "5", "OUTPUT_DIR", tmp_path)
    assert done.returncode == 0, done.stderr
    printed = done.stdout + done.stderr
    assert "Starting training from iteration 2" in printed
    assert (tmp_path / "log.txt").read_text().count("Making batched data loader") == 1
    before = torch.load(tmp_path / "model_0000001.pth", weights_only=True)
    after = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert (before["iteration"], after["iteration"]) == (1, 4)
    assert before["trainer"]["hooks"]["BestCheckpoint"]["best"]["segm/AP50"]["iteration"] == 1


def test_killed_and_resumed_the_weights_are_those_of_an_unbroken_run(trained, nuclei, repo_root, tmp_path):
    command = [sys.executable, "tools/train_net.py", "--config-file", LITE, *QUICK, "SOLVER.MAX_ITER", "4"]
    command += ["OUTPUT_DIR", str(tmp_path), "DATALOADER.NUM_WORKERS", "2"]  # the trained folder's run had none
    command += ["CELLSEG.VALIDATION_OVERLAYS", "0"]  # it drew some
    environment = {
        **os.environ,
        **{"PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(nuclei.parent), **ON_CPU},
    }
    process = subprocess.Popen(
        command,
        cwd=repo_root,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not (tmp_path / "last_checkpoint").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "model_final.pth").exists()
    subprocess.run([*command[:2], "--resume", *command[2:]], cwd=repo_root, env=environment, check=True, timeout=600)
    ours, unbroken = (torch.load(folder / "model_final.pth", weights_only=True) for folder in (tmp_path, trained[0]))
    assert ours["iteration"] == unbroken["iteration"] == 3
    assert all(torch.equal(ours["model"][name], value) for name, value in unbroken["model"].items())
    hooks, expected = (state["trainer"]["hooks"] for state in (ours, unbroken))
    assert hooks["BestCheckpoint"] == expected["BestCheckpoint"]
    assert _overlays(tmp_path) == {}
    averages = hooks["WeightAverage"]["average"], expected["WeightAverage"]["average"]
    assert all(torch.equal(averages[0][name], value) for name, value in averages[1].items())
    assert any(not torch.equal(ours["model"][name], value) for name, value in averages[0].items())


def test_training_stops_early_and_a_resume_does_not_go_on(train, tmp_path):
    """Nothing is found at a score of 1, so no evaluation is better than the first."""
    keys = [*QUICK, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0", "CELLSEG.EARLY_STOPPING", "1", "TEST.EVAL_PERIOD", "1"]
    for options in ([], ["--resume"]):
        done = train(*options, *keys, "SOLVER.MAX_ITER", "9", "OUTPUT_DIR", tmp_path)
        assert done.returncode == 0, done.stderr
        assert "was not better" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 1
        assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_two_processes_without_a_gpu_train_one_model(train, tmp_path):
    done = train("--num-gpus", "2", *QUICK, "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "World size: 2" in (tmp_path / "log.txt").read_text()
    assert (done.stdout + done.stderr).count("the model has 5.0 M parameters") == 1
    assert "the model has 5.0 M parameters" in (tmp_path / "log.txt").read_text()
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 1
    assert "segm/AP50" in _metrics(tmp_path)[-1]
    assert len(_overlays(tmp_path)) == 2


def test_eval_only_gives_the_validation_map_of_the_checkpoint(trained, train, tmp_path):
    output, _ = trained
    weights = output / "model_final.pth"
    done = train("--eval-only", *QUICK, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout[done.stdout.rindex('{\n "nuclei_val"') :])
    assert results["nuclei_val"]["segm"]["AP50"] == pytest.approx(_metrics(output)[-1]["segm/AP50"], abs=1e-3)
    assert set(results["nuclei_val_whole"]) == {"segm", "bbox"}
    written = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)  # no NaN in JSON
    assert written["nuclei_val"]["segm"]["AP50"] == results["nuclei_val"]["segm"]["AP50"]


def test_a_training_that_diverges_ends_in_one_line(train, tmp_path):
    keys = ["SOLVER.BASE_LR", "1e6", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CLIP_GRADIENTS.ENABLED", "False"]
    keys += ["SOLVER.MAX_ITER", "8", "OUTPUT_DIR", tmp_path]
    line = _one_error_line(train(*QUICK, *keys, "SOLVER.CHECKPOINT_PERIOD", "1"))
    assert "training has diverged at iteration " in line and "lower SOLVER.BASE_LR, which is 1e+06" in line
    assert "there is no good checkpoint yet" in line
    assert not list(tmp_path.glob("*.pth")) and not (tmp_path / "last_checkpoint").exists()


@pytest.fixture(scope="module")
def predicted(trained, run_tool, sample_root, tmp_path_factory):
    output = tmp_path_factory.mktemp("predicted")
    done = run_tool(
        *("predict", "--weights", trained[0] / "model_final.pth", "--input", sample_root / "test_release"),
        *("--image-ids", sample_root / "test_image_name_to_ids.json", "--output", output),
        **ON_CPU,
    )
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_a_checkpoint_alone_predicts_whole_images(predicted, sample_root):
    output, printed = predicted
    assert printed.startswith("25 images: ")
    halves = ", ".join(f"class{number} 0.50" for number in range(1, 5))
    assert f"least score: {halves}\n" in printed
    truth = COCO(str(sample_root / "test_gt.json"))
    results = json.loads((output / "test-results.json").read_text())
    assert {result["image_id"] for result in results} <= set(truth.getImgIds())
    assert len(truth.loadRes(str(output / "test-results.json")).getAnnIds()) == len(results) > 0
    ids = json.loads((sample_root / "test_image_name_to_ids.json").read_text())
    assert json.loads((output / "image_ids.json").read_text()) == ids
    for entry in ids:
        overlay = cv2.imread(str(output / "overlays" / entry["file_name"].replace(".tif", ".png")))
        assert overlay.shape[1] == entry["width"] and overlay.shape[0] > entry["height"]  # a legend is below


def test_results_that_are_there_are_replaced_on_demand_only(run_tool, sample_root, tmp_path):
    image = sorted((sample_root / "test_release").iterdir())[0]
    command = ("predict", "--weights", "nuclei", "--input", image, "--output", tmp_path, "--formats")
    (tmp_path / "notes.txt").write_text("mine")
    assert run_tool(*command, "coco", "csv", **ON_CPU).returncode == 0
    before = read_folder(tmp_path)
    done = run_tool(*command, "coco", "csv", **ON_CPU)
    assert "holds results already; give another --output, or --overwrite to replace it" in _one_error_line(done)
    assert read_folder(tmp_path) == before
    assert run_tool(*command, "geojson", "--overwrite", **ON_CPU).returncode == 0
    written = {f"geojson/{image.stem}.geojson", "counts.csv", "prediction.json"}
    assert set(read_folder(tmp_path)) == {"notes.txt", *written}


def test_two_processes_predict_what_one_predicts(predicted, trained, run_tool, sample_root, tmp_path):
    """The images of :func:`predicted`, whose results are in the order of the id file."""
    done = run_tool(
        *("predict", "--num-gpus", "2", "--weights", trained[0] / "model_final.pth", "--formats", "coco", "--zip"),
        *("--image-ids", sample_root / "test_image_name_to_ids.json", "--input", sample_root / "test_release"),
        *("--output", tmp_path),
        **ON_CPU,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == predicted[1].replace(str(predicted[0]), str(tmp_path))
    one, two = (json.loads((folder / "test-results.json").read_text()) for folder in (predicted[0], tmp_path))
    assert [result.pop("score") for result in two] == pytest.approx([result.pop("score") for result in one], abs=1e-5)
    assert one == two
    with zipfile.ZipFile(tmp_path / "test-results.zip") as archive:
        assert archive.namelist() == ["test-results.json"]


def test_a_bad_image_ends_several_processes_in_one_line(trained, run_tool, sample_root, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((sample_root / "test_release").iterdir())[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.tif").write_bytes(b"II*\0 and nothing more")
    options = ("--weights", trained[0] / "model_final.pth", "--input", folder, "--output", tmp_path / "out")
    done = run_tool("predict", "--num-gpus", "2", *options, **ON_CPU)
    assert "broken.tif" in _one_error_line(done)
    assert not (tmp_path / "out" / "test-results.json").exists()


def test_results_are_scored_from_files_alone(predicted, sample_root, run_tool, tmp_path):
    output, _ = predicted
    done = run_tool(
        *("evaluate", "--ground-truth", sample_root / "test_gt.json"),
        *("--predictions", output / "test-results.json", "--output", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    line = next(line for line in done.stdout.splitlines() if line.startswith("AP50 "))
    assert line.split()[1] == f"{metrics['segm']['AP50']:.2f}"


def test_one_file_and_tiles_by_config(trained, run_tool, nuclei, repo_root, sample_root, tmp_path):
    image = sorted((sample_root / "test_release").iterdir())[0]
    done = run_tool(
        *("predict", "--config-file", LITE, "--input", image, "--output", tmp_path / "out", "--formats", "coco"),
        *("--score-threshold", "0.04", "--tile-size", "256", "--overlap", "0.3"),
        *("CELLSEG.DATASET", "nuclei", "MODEL.WEIGHTS", trained[0] / "model_final.pth"),
        cwd=repo_root,
        DETECTRON2_DATASETS=str(nuclei.parent),
    )
    assert done.returncode == 0, done.stderr
    written = {"test-results.json", "image_ids.json", "counts.csv", "prediction.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == written


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["CELLSEG.DATASET", "nuclei", "SOLVER.BASE_RATE", "1"], "SOLVER.BASE_RATE"),
        (["CELLSEG.DATASET", "neurons"], "'neurons_train' is not registered"),
        (["--eval-only", "CELLSEG.DATASET", "nuclei"], "does not fit the model"),
        (["--eval-only", "CELLSEG.DATASET", "nuclei", "MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth"),
        (["--num-gpus", "3", "CELLSEG.DATASET", "nuclei"], "cannot be shared by 3 processes"),
        (["CELLSEG.DATASET", "nuclei", "--resume"], "options stand before config keys; move --resume"),
        (["CELLSEG.DATASET", "nuclei", "SOLVER.IMS_PER_BATCH", "0"], "SOLVER.IMS_PER_BATCH is 0; write a number from"),
        (["CELLSEG.DATASET", "nuclei", "MODEL.ROI_HEADS.NAME", "Hydra"], "NAME is Hydra; write CascadeROIHeads or"),
    ],
    ids=[
        *("unknown key", "unknown dataset", "weights of another model", "no weights file", "batch"),
        *("option at the end", "empty batch", "unknown heads"),
    ],
)
def test_training_refuses_in_one_line(args, named, train, tmp_path):
    done = train(*args, "OUTPUT_DIR", tmp_path / "out")
    assert named in _one_error_line(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["empty folder", "ids of other images", "ids twice", "foreign weights", "no weights"])
def test_prediction_refuses_in_one_line(case, trained, run_tool, sample_root, tmp_path):
    images, weights, ids = sample_root / "test_release", trained[0] / "model_final.pth", []
    if case == "empty folder":
        images = tmp_path / "empty"
        images.mkdir()
        named = "empty: holds no .tif"
    elif case == "ids of other images":
        (tmp_path / "ids.json").write_text('[{"file_name": "other.tif", "id": 1}]')
        ids, named = ["--image-ids", tmp_path / "ids.json"], "'other.tif'"
    elif case == "ids twice":
        (tmp_path / "ids.json").write_text('[{"file_name": "a.tif", "id": 1}, {"file_name": "b.tif", "id": 1}]')
        ids, named = ["--image-ids", tmp_path / "ids.json"], "has the id 1 twice"
    elif case == "foreign weights":
        weights, named = tmp_path / "foreign.pth", "carries no config"
        torch.save({"model": {}}, weights)
    else:
        weights, named = tmp_path / "nowhere.pth", "nowhere.pth"
    done = run_tool("predict", "--weights", weights, "--input", images, *ids, "--output", tmp_path / "out")
    assert named in _one_error_line(done)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_class_count_are_begun_afresh_in_training_and_refused_in_evaluation(
    trained, run_tool, repo_root, sample_root, tmp_path
):
    converted = run_tool(
        *("convert_tifs", "--input", sample_root, "--output", tmp_path / "datasets" / "five"),
        *("--class-names", "a", "b", "c", "d", "e"),
    )
    assert converted.returncode == 0, converted.stderr
    opts = ["CELLSEG.DATASET", "five", "MODEL.WEIGHTS", trained[0] / "model_final.pth", "OUTPUT_DIR", tmp_path / "out"]
    place = {"cwd": repo_root, "DETECTRON2_DATASETS": str(tmp_path / "datasets")}
    refused = run_tool("train_net", "--config-file", LITE, "--eval-only", *QUICK, *opts, **place)
    assert "was trained on the classes class1, class2, class3, class4, but the dataset has a" in _one_error_line(
        refused
    )
    fresh = run_tool("train_net", "--config-file", LITE, *QUICK, *opts, "SOLVER.MAX_ITER", "1", **place)
    assert fresh.returncode == 0, fresh.stderr
    assert "initialised randomly" in fresh.stdout
    assert "roi_heads.box_predictor.cls_score.weight (5, 256) -> (6, 256)" in fresh.stdout
