"""The model card's figures are those of predict and evaluate, and its pictures show the best and the worst image."""

import json

import cv2
import pytest
from tables import read_tables

from benchmarks.model_card import PICTURE_WIDTH

SHOWN = 3
"""Test images, of the sample's 25: each takes a second or two."""


@pytest.fixture(scope="module")
def few(sample_root, tmp_path_factory):
    """A folder with some of the sample's test images and their ground truth."""
    root = tmp_path_factory.mktemp("few")
    ids = json.loads((sample_root / "test_image_name_to_ids.json").read_text())
    chosen = sorted(ids, key=lambda entry: entry["height"] * entry["width"])[:SHOWN]
    (root / "test_release").mkdir()
    for entry in chosen:
        (root / "test_release" / entry["file_name"]).symlink_to(sample_root / "test_release" / entry["file_name"])
    (root / "test_image_name_to_ids.json").write_text(json.dumps(chosen))
    truth = json.loads((sample_root / "test_gt.json").read_text())
    own = {entry["id"] for entry in chosen}
    truth["images"] = [image for image in truth["images"] if image["id"] in own]
    truth["annotations"] = [cell for cell in truth["annotations"] if cell["image_id"] in own]
    (root / "test_gt.json").write_text(json.dumps(truth))
    return root


@pytest.fixture(scope="module")
def card(few, run_tool, tmp_path_factory):
    """What the command printed, and the folder of its pictures."""
    pictures = tmp_path_factory.mktemp("pictures")
    done = run_tool("benchmark", "card", "--quick", "--data", few, "--pictures", pictures)
    assert done.returncode == 0, done.stderr
    return done.stdout, pictures


def test_its_figures_are_those_of_predict_and_evaluate(card, few, run_tool, tmp_path):
    tables = read_tables(card[0])
    ids = ("--image-ids", few / "test_image_name_to_ids.json")
    run_tool("predict", "--weights", "nuclei", "--input", few / "test_release", *ids, "--output", tmp_path)
    truth = json.loads((few / "test_gt.json").read_text())
    for cell in truth["annotations"]:
        cell["category_id"] = 1
    truth["categories"] = [{"id": 1, "name": "nucleus"}]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    options = ("--ground-truth", tmp_path / "truth.json", "--predictions", tmp_path / "test-results.json")
    assert run_tool("evaluate", *options, "--output", tmp_path / "scores").returncode == 0
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    cells = metrics["cells"]["summary"]

    scores, accuracy = tables["Scores"], tables["Accuracy"]
    whole = scores[0]
    assert (whole["images"], whole["number"], whole["cells"]) == ("all", str(SHOWN), f"{cells['cells']:.0f}")
    expected = {**{name: metrics["segm"][name] for name in ("AP", "AP50", "AP75")}, "AJI": cells["AJI"]}
    expected |= {"PQ": cells["mPQ+"], "F1 at 0.5": cells["F1@0.50"], "0.7": cells["F1@0.70"]}
    assert {name: whole[name] for name in expected} == {name: f"{value:.1f}" for name, value in expected.items()}
    assert accuracy[0]["0.50"] == f"{cells['accuracy@0.50']:.1f}" and accuracy[0]["0.90"]
    assert sum(int(row["number"]) for row in scores[1:]) == SHOWN
    assert {row["images"] for row in scores[1:]} <= {"dark", "colour", "bright"}


def test_its_pictures_are_small(card):
    files = sorted(path.name for path in card[1].iterdir())
    assert files == ["nuclei_best.png", "nuclei_worst.png"]
    for name in files:
        height, width = cv2.imread(str(card[1] / name)).shape[:2]
        assert 150 < height < 600 and 400 < width <= PICTURE_WIDTH
        assert (card[1] / name).stat().st_size < 80_000


def test_a_folder_without_test_images_is_named(run_tool, tmp_path):
    done = run_tool("benchmark", "card", "--data", tmp_path)
    assert done.returncode == 2
    assert "test_release: there is no such folder" in done.stderr
