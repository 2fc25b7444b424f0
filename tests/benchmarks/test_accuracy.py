"""The comparison of accuracies: what each side is given and gives back, in real processes of a few steps."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from drawing import discs, noise, write_sample
from tables import read_tables

from benchmarks.accuracy import data, package_side, report
from benchmarks.accuracy.job import Budget, Job, Training, predict, processor_seconds, write_result
from benchmarks.accuracy.score import score
from benchmarks.accuracy.thresholds import best_least_score, label_map_finder
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError


@pytest.fixture(scope="module")
def work(sample_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    data.prepare(sample_root, folder)
    return folder


@pytest.fixture
def job(work):
    return Job("torchvision", str(work), "known", seconds=60)


def _truth_as_found(root: Path, folder: Path) -> None:
    """Writes the ground truth of the test images as if a side had found it."""
    truth = json.loads((root / "test_gt.json").read_text())
    folder.mkdir()
    for image in truth["images"]:
        rles = [cell["segmentation"] for cell in truth["annotations"] if cell["image_id"] == image["id"]]
        size = image["height"], image["width"]
        labels = CellInstances.from_rles(rles, np.zeros(len(rles), np.int64), size).label_image()
        np.savez(folder / f"{Path(image['file_name']).stem}.npz", labels=labels, scores=np.ones(len(rles)))


def test_all_labelled_images_are_there_once_and_the_parts_are_those_of_the_conversion(work, sample_root, job):
    dataset = json.loads((work / "datasets" / "accuracy" / "dataset.json").read_text())
    assert dataset["class_names"] == ["cell"]
    for part, images in (("train", job.training_images()), ("val", job.validation_images())):
        assert [image.name for image in images] == dataset["images"][part]
        for image in images:
            assert (image.pixels.dtype, image.pixels.shape) == (np.uint8, (*image.labels.shape, 3))
            assert image.labels.max() > 0
    assert len(job.test_images()) == len(list((sample_root / "test_release").iterdir()))


def test_classes_are_joined_without_joining_cells():
    one, other = np.array([[5, 5, 0, 9]], np.int32), np.array([[0, 5, 5, 0]], np.int32)
    crowd = LabelMap((1,), np.array([[0, 0, 0, 1]], np.int32), crowd=True)
    labels = data.joined([LabelMap((1,), one), LabelMap((1,), other), crowd], (1, 4))
    assert len(np.unique(labels)) == 3 and labels[0, 1] == labels[0, 2]


def test_prepared_images_are_kept_until_the_data_change(sample_root, work, tmp_path):
    written = (work / "data" / "done.json").stat().st_mtime_ns
    known = data.prepare(sample_root, work)
    assert (work / "data" / "done.json").stat().st_mtime_ns == written
    rng = np.random.default_rng(0)
    write_sample(tmp_path, "a", noise(rng, 60, 70), {1: discs(rng, 60, 70, 8)}, photometric="rgb")
    with pytest.raises(CellSegError, match=r"test_gt\.json: there is no such file"):
        data.digest(tmp_path)
    (tmp_path / "test_gt.json").write_text("{}")
    assert data.digest(tmp_path) != known


def test_an_image_that_no_side_can_train_on_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        write_sample(tmp_path / "in", name, noise(rng, 255, 300), {1: discs(rng, 255, 300, 8)}, photometric="rgb")
    (tmp_path / "in" / "test_gt.json").write_text("{}")
    with pytest.raises(CellSegError, match="test_release: there is no such folder"):
        data.prepare(tmp_path / "in", tmp_path / "work")
    shutil.copytree(tmp_path / "in" / "train" / "a", tmp_path / "in" / "test_release")
    with pytest.raises(CellSegError, match="has a side under 256 px"):
        data.prepare(tmp_path / "in", tmp_path / "work")
    assert not (tmp_path / "work" / "data" / "done.json").exists()


def test_the_clock_counts_processor_time_from_the_first_steps_end_on_without_pauses(job):
    budget = Budget(job)
    assert budget.step() and budget.seconds < 1
    _work(0.2)
    budget.pause()
    counted = budget.seconds
    _work(0.2)
    assert counted >= 0.2 and budget.seconds == counted
    budget.resume()
    _work(0.1)
    assert budget.seconds >= counted + 0.1
    assert 0 < budget.share < 1
    assert budget.training().steps == 1


def test_the_clock_ends_a_training_by_time_or_by_steps(work):
    budget = Budget(Job("torchvision", str(work), "known", seconds=0.1))
    assert budget.step()
    _work(0.2)
    assert not budget.step()
    budget = Budget(Job("torchvision", str(work), "known", seconds=0.1, steps=2))
    assert budget.step() and not budget.step()


def _work(seconds: float) -> None:
    until = processor_seconds() + seconds
    while processor_seconds() < until:
        pass


def test_the_truth_scores_full_marks(sample_root, tmp_path):
    _truth_as_found(sample_root, tmp_path / "found")
    summary = score(sample_root, tmp_path / "found")
    assert summary["F1@0.50"] > 99 and summary["accuracy@0.90"] > 98  # cells that overlap lose pixels


def test_only_the_images_that_were_predicted_are_scored(sample_root, tmp_path):
    _truth_as_found(sample_root, tmp_path / "found")
    first, *others = sorted((tmp_path / "found").iterdir())
    for path in others:
        path.unlink()
    assert score(sample_root, tmp_path / "found")["F1@0.50"] > 99
    empty = np.zeros_like(np.load(first)["labels"])
    np.savez(first, labels=empty, scores=np.zeros(0))
    assert score(sample_root, tmp_path / "found")["F1@0.50"] == 0


def test_the_least_score_is_the_one_that_parts_cells_from_others(job):
    images = job.validation_images()[:3]
    truth = {image.pixels.tobytes(): image.labels for image in images}

    def find(pixels):
        labels = truth[pixels.tobytes()]
        cells = CellInstances.from_runs(LabelMap((1,), labels).cells[1], np.zeros(len(np.unique(labels)) - 1, np.int64))
        wrong = CellInstances.from_runs(LabelMap((1,), (labels == 0).astype(np.int32)).cells[1], [0], [0.3])
        return CellInstances.concatenate([cells, wrong])

    least = best_least_score(find, images)
    assert 0.3 < least <= 1
    labels, scores = label_map_finder(find, least)(images[0].pixels)
    np.testing.assert_array_equal(labels > 0, images[0].labels > 0)
    assert scores.min() == 1


def test_a_side_that_is_done_with_the_same_settings_is_not_run_again(work):
    job = Job("nuclei", str(work), "known", seconds=60)
    job.write()
    write_result(
        job, Training(7, 59.0, 80.0), 4, {"plain": 1.0, "full": 8.0}, {"plain": "0.5", "full": "0.4"}, ("numpy",)
    )
    assert report.result_of(job, Path("nowhere"))["training"]["steps"] == 7


def test_a_side_that_fails_names_its_log(tmp_path):
    without_images = Job("torchvision", str(tmp_path), "known", seconds=60)
    with pytest.raises(CellSegError, match=r"60_seconds/torchvision/log\.txt: the side failed with exit code 1"):
        report.result_of(without_images, Path(sys.executable))
    assert "Traceback" in (without_images.folder / "log.txt").read_text()


def test_seconds_are_of_all_pixels(job):
    images = job.test_images()[:5]
    sizes = list(dict.fromkeys(image.pixels.shape for image in images))
    calls = []

    def find(pixels):
        calls.append(pixels.shape)
        return np.ones(pixels.shape[:2], np.int32), np.array([0.9])

    assert predict(job, "plain", images, find) >= 0
    assert calls == [*sizes, *(image.pixels.shape for image in images)]
    for image in images:
        found = np.load(job.folder / "plain" / f"{image.name}.npz")
        assert found["labels"].shape == image.labels.shape and found["scores"].tolist() == [0.9]


def _quick(run_tool, work: Path, sides: list[str], rows: int):
    """The tables of the command in its quick form."""
    process = run_tool("benchmark", "accuracy", "--quick", "--work", work, "--sides", *sides)
    assert (process.returncode, process.stderr) == (0, ""), process.stderr
    tables = read_tables(process.stdout)
    scored, trained = tables["Accuracy"], tables["Training"]
    assert len(trained) == rows and len(scored) == 2 * rows
    assert all(row["steps"] == "2" and row["images a step"] == "4" for row in trained)
    assert all(float(row["s / MP"]) > 0 for row in scored)
    return process.stdout, scored


def test_the_command_trains_and_scores_this_package_once(run_tool, work):
    text, scored = _quick(run_tool, work, ["nuclei"], 1)
    assert scored[0]["side: settings"] == "this package, `nuclei`: plain"
    assert float(scored[0]["F1 at 0.5"]) > 50  # two steps do not spoil it
    assert "make bench-setup" not in text
    done = (work / "2_steps" / "nuclei" / "result.json").stat().st_mtime_ns
    again, _ = _quick(run_tool, work, ["nuclei"], 1)
    assert again == text
    assert done == (work / "2_steps" / "nuclei" / "result.json").stat().st_mtime_ns


def test_the_command_trains_and_scores_torchvision(run_tool, work):
    _quick(run_tool, work, ["torchvision"], 1)


def test_both_recipes_are_of_one_network_and_differ_in_where_they_start():
    imagenet, nuclei = (get_cfg(recipe.config, recipe.keys) for recipe in package_side.RECIPES.values())
    assert nuclei.MODEL.WEIGHTS == "nuclei" and "efficientnet_lite0" in imagenet.MODEL.WEIGHTS
    assert imagenet.MODEL.BACKBONE == nuclei.MODEL.BACKBONE
    assert imagenet.SOLVER.LR_SCHEDULER_NAME == nuclei.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR"
    assert not imagenet.CELLSEG.BOX_SIZE_INPUT and not nuclei.CELLSEG.BOX_SIZE_INPUT


@pytest.mark.stardist
def test_the_command_trains_and_scores_stardist(run_tool, work):
    _, scored = _quick(run_tool, work, ["stardist"], 1)
    assert scored[0]["least score"] == "0.50, NMS 0.4"


def test_a_missing_environment_is_one_line(run_tool, work):
    process = run_tool(
        "benchmark", "accuracy", "--quick", "--work", work, "--sides", "stardist", "--stardist", "nowhere"
    )
    assert process.returncode == 0, process.stderr
    assert read_tables(process.stdout) == {"Accuracy": [], "Training": []}
    assert process.stdout.strip().splitlines()[-1] == report.WITHOUT_STARDIST
