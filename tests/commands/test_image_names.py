"""One image predicted alone has the id 1, which is another image's in a ground truth and in other results."""

import json

import cv2
import numpy as np
import pytest
import tifffile
from drawing import discs, places
from ground_truth_model import BlobModel

from cellseg_d2.cells.coco import annotate, dataset
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.config import get_cfg
from cellseg_d2.export.lettering import lettering, swatch
from cellseg_d2.export.overlay import class_color
from cellseg_d2.images.listing import list_images
from cellseg_d2.inference.folder import Output, predict_images
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.report.prediction_grid import write_prediction_grid

SIZE = (60, 80)
NAMES = ("a.tif", "b.tif", "c.tif")


@pytest.fixture
def root(tmp_path):
    """Images, their ground truth, and predictions of all of them and of the last one alone."""
    (tmp_path / "images").mkdir()
    annotations = []
    predictor = WholeImagePredictor(BlobModel(), get_cfg("mask_rcnn_lite0_FPN", ["CELLSEG.CLASS_NAMES", "['nucleus']"]))
    for number, name in enumerate(NAMES):
        bright = discs(np.random.default_rng(number), *SIZE, 4, radius=9) > 0
        pixels = np.repeat((bright * 200).astype(np.uint8)[..., None], 3, axis=2)
        tifffile.imwrite(tmp_path / "images" / name, pixels, photometric="rgb")
        labels = cv2.connectedComponents(bright.astype(np.uint8), connectivity=4)[1].astype(np.int32)
        annotations.append(annotate([LabelMap((1,), labels)], (0, 0, SIZE[1], SIZE[0])))
    records = [{"file_name": f"images/{name}", "height": SIZE[0], "width": SIZE[1]} for name in NAMES]
    (tmp_path / "gt.json").write_text(json.dumps(dataset(records, annotations, ["nucleus"])))
    for folder, source in (("all", tmp_path / "images"), ("one", tmp_path / "images" / NAMES[-1])):
        predict_images(predictor, list_images(source, None), Output(tmp_path / folder))
    return tmp_path


@pytest.fixture
def evaluate(run_tool, root):
    """Scores results of ``root``: AP50 of masks and stderr."""

    def run(results, *options):
        done = run_tool("evaluate", "--ground-truth", root / "gt.json", "--predictions", root / results, *options)
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if line.startswith("AP50 "))
        return float(line.split()[1]), done.stderr

    return run


def test_an_image_predicted_alone_is_scored_as_the_one_of_its_name(root, evaluate):
    assert {result["image_id"] for result in read(root / "one" / "test-results.json")} == {1}
    everything = evaluate("all/test-results.json")
    assert everything[0] > 90 and everything[1] == ""
    whole, told = evaluate("one/test-results.json")
    assert told.splitlines() == [
        f"WARNING {root / 'gt.json'}: 2 of 3 images were not predicted, so all their cells count as missed; "
        "--only-predicted scores the others alone"
    ]
    part, told = evaluate("one/test-results.json", "--only-predicted")
    assert told == ""
    assert part > 90 > 50 > whole > 10


def read(path):
    return json.loads(path.read_text())


def test_without_names_ids_count_and_what_was_predicted_is_not_known(root, evaluate, run_tool):
    (root / "one" / "image_ids.json").unlink()
    score, told = evaluate("one/test-results.json")
    assert score < 10 and told == ""
    options = ("--ground-truth", root / "gt.json", "--predictions", root / "one" / "test-results.json")
    done = run_tool("evaluate", *options, "--only-predicted")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {root / 'one' / 'test-results.json'}: there is no image_ids.json beside it")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"file_name": "x.tif"}, "has 'x.tif', which"), ({"height": 61}, "'c.tif' is 61 x 80, and 60 x 80 in")],
    ids=["name", "size"],
)
def test_contradictions_are_one_line(change, message, root, run_tool):
    path = root / "one" / "image_ids.json"
    path.write_text(json.dumps([{**entry, **change} for entry in read(path)]))
    words = ("--ground-truth", root / "gt.json", "--predictions", root / "one" / "test-results.json")
    for tool in (["evaluate"], ["report", "evaluation", "--output", root / "page.html"]):
        done = run_tool(*tool, *words)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {path}: {message}")


def test_merged_results_are_of_the_images_of_one_name(root, run_tool, evaluate):
    first, second = (root / folder / "test-results.json" for folder in ("one", "all"))
    done = run_tool("merge_predictions", first, second, "--output", root / "merged.json")
    assert done.returncode == 0, done.stderr
    counts = len(read(first)), len(read(second))
    assert done.stdout.splitlines()[0] == f"3 images: {counts[0]} + {counts[1]} cells -> {counts[1]}"
    entries = read(root / "merged.image_ids.json")
    assert sorted(entry["file_name"] for entry in entries) == sorted(NAMES)
    assert next(entry["id"] for entry in entries if entry["file_name"] == "c.tif") == 1
    assert evaluate("merged.json")[0] == evaluate("all/test-results.json")[0]
    (root / "one" / "image_ids.json").unlink()  # then ids alone count, and no names are left that might be wrong
    (root / "all" / "image_ids.json").unlink()
    assert run_tool("merge_predictions", first, second, "--output", root / "merged.json").returncode == 0
    assert not (root / "merged.image_ids.json").exists()


@pytest.mark.parametrize("with_truth", [False, True])
def test_pictures_show_the_cells_of_the_image_of_the_same_name(with_truth, root, run_tool):
    options = {"ground_truth": root / "gt.json"} if with_truth else {}
    shown = [image for image in list_images(root / "images", None) if image.path.name == NAMES[-1]]
    write_prediction_grid(shown, root / "all" / "test-results.json", root / "expected.png", **options)
    words = ("--input", root / "images", "--predictions", root / "one" / "test-results.json", "--samples", 1)
    truth = ("--ground-truth", root / "gt.json") if with_truth else ()
    done = run_tool("visualize", "predictions", *words, *truth, "--output", root / "grid.png")
    assert done.returncode == 0, done.stderr
    assert "2 of 3 images were not predicted, and left out" in done.stderr
    expected, grid = (cv2.imread(str(root / name)) for name in ("expected.png", "grid.png"))
    assert np.array_equal(expected, grid)
    assert len(places(grid[..., ::-1], lettering(NAMES[-1]))) == 1
    assert (grid[..., ::-1] == class_color(0)).all(axis=2).sum() > swatch(class_color(0)).size / 3  # its cells too
    words = ("--input", root / "images" / NAMES[0], *words[2:])
    done = run_tool("visualize", "predictions", *words, "--output", root / "none.png")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {root / 'one' / 'image_ids.json'}: has none of the images to show")


def test_a_page_says_what_was_predicted_and_shows_the_right_image(root, run_tool):
    words = ("--ground-truth", root / "gt.json", "--predictions", root / "one" / "test-results.json")
    images = ("--input", root / "images" / NAMES[-1], "--image-ids", root / "one" / "image_ids.json")
    page = root / "page.html"
    done = run_tool("report", "evaluation", *words, *images, "--output", page, "--only-predicted")
    assert done.returncode == 0, done.stderr
    assert "1 images that were predicted," in page.read_text()
    done = run_tool("report", "evaluation", *words, "--output", page)
    assert done.returncode == 0, done.stderr
    assert "3 images, 2 of them not predicted," in page.read_text()
