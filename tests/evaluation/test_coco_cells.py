"""Cells of COCO files in all the forms in which other tools write them."""

import copy

import numpy as np
import pytest
from coco_cases import NAMES, draw_case
from drawing import pycocotools_rle
from pycocotools import mask as mask_util

from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_cells import class_names, image_cells

SQUARE = np.zeros((6, 8), bool)
SQUARE[1:3, 2:5] = True


def small(segmentation, **image):
    return {
        "images": [{"id": 3, **image}],
        "annotations": [{"image_id": 3, "category_id": 7, "segmentation": segmentation}],
        "categories": [{"id": 7, "name": "late"}, {"id": 2, "name": "early"}],
    }


def test_images_come_by_id_with_their_names_tissues_and_classes():
    truth, results = draw_case(1)
    truth["images"] = truth["images"][::-1]
    truth["images"][0]["tissue"] = "lung"
    images = list(image_cells(truth, results))
    assert [image.name for image in images] == ["4.png", "9.png", "12.png"]
    assert [image.tissue for image in images] == [None, None, "lung"]
    own = [cell for cell in truth["annotations"] if cell["image_id"] == 9]
    assert images[1].truth.areas.tolist() == [cell["area"] for cell in own]
    assert images[1].truth.crowd.tolist() == [bool(cell["iscrowd"]) for cell in own]
    found = [result for result in results if result["image_id"] == 9]
    assert images[1].predictions.scores.tolist() == [result["score"] for result in found]
    assert images[1].predictions.classes.tolist() == [result["category_id"] - 1 for result in found]
    assert class_names(truth) == NAMES


@pytest.mark.parametrize("form", ["rle", "counts as a list", "polygon"])
def test_every_form_of_segmentation(form):
    rle = pycocotools_rle(SQUARE)
    if form == "counts as a list":
        columns = SQUARE.T.ravel().astype(int)
        edges = np.flatnonzero(np.diff(columns, prepend=0, append=1 - columns[-1]))
        segmentation = {"size": [6, 8], "counts": np.diff(edges, prepend=0).tolist()}
        assert (mask_util.decode(mask_util.frPyObjects(segmentation, 6, 8)) == SQUARE).all()
    else:
        segmentation = rle if form == "rle" else [[2, 1, 5, 1, 5, 3, 2, 3]]
    (image,) = image_cells(small(segmentation, height=6, width=8), [])
    assert (image.name, image.truth.areas.tolist(), image.truth.classes.tolist()) == ("3", [6], [1])


def test_an_rle_says_how_large_an_image_is_and_a_polygon_does_not():
    (image,) = image_cells(small(pycocotools_rle(SQUARE)), [])
    assert image.truth.runs.size == (6, 8)
    with pytest.raises(CellSegError, match="image 3 of the ground truth has no height and width"):
        list(image_cells(small([[2, 1, 5, 1, 5, 3, 2, 3]]), []))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"category_id": 9}, "results have the category_id 9, which the ground truth does not", id="class"),
        pytest.param({"image_id": 8}, "results have the image_id 8, which the ground truth does not", id="image"),
        pytest.param({"segmentation": None}, "a segmentation of the results of image 4 is damaged", id="no mask"),
        pytest.param(
            {"segmentation": {"size": [64, 64], "counts": "5"}}, "results of image 4 is damaged", id="cut off"
        ),
        pytest.param({"segmentation": pycocotools_rle(SQUARE)}, "results of image 4 is damaged", id="another size"),
        pytest.param({"score": "high"}, "results of image 4 is damaged", id="score"),
    ],
)
def test_damaged_results_are_refused(change, message):
    truth, results = draw_case(1)
    results = copy.deepcopy(results[:3])
    results[1].update(change)
    with pytest.raises(CellSegError, match=message):
        list(image_cells(truth, results))
