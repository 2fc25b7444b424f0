"""The weights that come with the package on real images: every file, count and picture is of the same cells."""

import json
from collections import Counter

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from roifile import roiread

from cellseg_d2.cells.coco import by_image
from cellseg_d2.cells.hidden import visible
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.evaluation.image_scores import image_scores
from cellseg_d2.evaluation.judgement import judge_results
from cellseg_d2.export.contrast import stretched
from cellseg_d2.export.formats import FORMATS
from cellseg_d2.export.overlay import draw_overlay
from cellseg_d2.export.record import selected_cells
from cellseg_d2.images.listing import list_images
from cellseg_d2.inference.folder import Output, predict_images
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.report.gallery import draw_gallery

LEAST = 0.3
IMAGES = 8


@pytest.fixture(scope="module")
def predicted(sample_root, tmp_path_factory):
    """The images, the folder of results, and what the prediction says of itself."""
    folder = tmp_path_factory.mktemp("predicted")
    every = list_images(sample_root / "test_release", sample_root / "test_image_name_to_ids.json")
    images = sorted(every, key=lambda image: image.path.name)[:IMAGES]
    predictor = WholeImagePredictor.from_checkpoint("nuclei")
    return images, folder, predict_images(predictor, images, Output(folder, FORMATS, LEAST))


@pytest.fixture(scope="module")
def expected(predicted):
    """Cells of each image, from ``counts.csv``."""
    table = pd.read_csv(predicted[1] / "counts.csv")
    assert table.columns.tolist() == ["image", "class", "cells", "area_px", "mean_score"]
    assert set(table["class"]) == {"nucleus"}
    return dict(zip(table["image"], table["cells"]))


def test_what_is_printed_is_what_the_table_of_counts_has(predicted, expected):
    images, _, summary = predicted
    assert set(expected) == {image.path.name for image in images}
    assert summary.counts == {"nucleus": sum(expected.values())}
    assert summary.images == IMAGES
    assert summary.results > 2 * sum(expected.values())  # COCO results are of all scores


def test_files_of_all_formats_have_the_same_cells(predicted, expected):
    images, folder, _ = predicted
    for image in images:
        count, name = expected[image.path.name], image.name
        table = pd.read_csv(folder / "csv" / f"{name}.csv")
        assert table["id"].tolist() == list(range(1, count + 1))
        assert set(table["image"]) == {image.path.name}
        assert table["score"].min() >= LEAST
        features = json.loads((folder / "geojson" / f"{name}.geojson").read_text())["features"]
        rois = roiread(folder / "rois" / f"{name}.zip")
        assert len(features) == len(rois if isinstance(rois, list) else [rois]) == count
        for file in ("labels.tif", "class1.tif"):
            labels = tifffile.imread(folder / "labels" / name / file)
            left = np.bincount(labels.ravel(), minlength=count + 1)[1:]
            assert len(left) == count
            assert (left >= 0.5 * table["area_px"]).all()  # none is hidden for more than half


def test_counts_have_the_areas_and_scores_of_the_tables(predicted):
    _, folder, _ = predicted
    counts = pd.read_csv(folder / "counts.csv").set_index("image")
    cells = pd.concat(pd.read_csv(path) for path in (folder / "csv").iterdir()).groupby("image")
    assert counts["area_px"].to_dict() == cells["area_px"].sum().to_dict()
    assert counts["mean_score"].to_dict() == pytest.approx(cells["score"].mean().to_dict(), abs=1e-6)


def test_overlays_show_the_same_cells(predicted, expected):
    """Each is drawn anew from the COCO results by the rule alone."""
    images, folder, _ = predicted
    results = by_image(json.loads((folder / "test-results.json").read_text()))
    hidden = 0
    for image in images:
        own = [result for result in results[image.id] if result["score"] >= LEAST]
        pixels = image.read("percentile:0.1,99.9")
        rles, scores = [result["segmentation"] for result in own], [result["score"] for result in own]
        cells = CellInstances.from_rles(rles, [0] * len(own), pixels.shape[:2], scores)
        hidden += len(cells) - len(visible(cells))
        assert len(visible(cells)) == expected[image.path.name]
        overlay = cv2.imread(str(folder / "overlays" / f"{image.name}.png"))[..., ::-1]
        shown = draw_overlay(stretched(pixels), visible(cells))
        assert np.array_equal(overlay[: len(shown)], shown)  # a legend is below
    assert hidden > 5  # else this says nothing


def test_an_evaluation_and_its_page_count_the_same_cells(predicted, expected, sample_root):
    images, folder, _ = predicted
    truth = json.loads((sample_root / "test_gt.json").read_text())
    ids = {image.id for image in images}
    truth["images"] = [image for image in truth["images"] if image["id"] in ids]
    truth["annotations"] = [cell for cell in truth["annotations"] if cell["image_id"] in ids]
    assert not any(cell["iscrowd"] for cell in truth["annotations"])  # crowds would take predictions out
    results = json.loads((folder / "test-results.json").read_text())
    selection = selected_cells(folder / "test-results.json", ["nucleus"])
    cells = judge_results(truth, results, 1000, selection).cells
    assert cells.metrics.summary["predictions"] == sum(expected.values())
    hit, spurious, _ = cells.metrics.counts.sum(axis=1).T
    assert dict(zip(cells.images, hit + spurious)) == expected
    assert {score.name: score.hit + score.spurious for score in image_scores(cells)} == expected
    options = {"files": None, "selection": selection, "max_detections": 1000, "max_side": None}
    pictures = draw_gallery(truth, results, [image["id"] for image in truth["images"]], **options)
    drawn = Counter({picture.score.name: len(picture.predictions) for picture in pictures})
    assert drawn == expected
