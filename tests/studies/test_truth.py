"""Ground truth of test images that does not fit them is found before anything is trained."""

import json

import numpy as np
import pytest
from drawing import write_test_images

from cellseg_d2.errors import CellSegError
from cellseg_d2.studies.truth import check_truth, has_truth


def _write(root, images, categories=(1, 2)):
    pixels = np.zeros((20, 30), np.uint8)
    ids = [{"file_name": "a.tif", "id": 4}, {"file_name": "b.tif", "id": 9}]
    write_test_images(root, {"a.tif": pixels, "b.tif": pixels}, ids)
    entries = [{"id": number, "file_name": name, "height": 20, "width": 30} for number, name in images.items()]
    truth = {"images": entries, "annotations": [], "categories": [{"id": number} for number in categories]}
    (root / "test_gt.json").write_text(json.dumps(truth))


def test_what_fits_passes(tmp_path):
    assert not has_truth(tmp_path)
    check_truth(tmp_path, 2)
    _write(tmp_path, {4: "a.tif", 9: "b.png", 11: "not predicted.tif"})
    assert has_truth(tmp_path)
    check_truth(tmp_path, 2)


@pytest.mark.parametrize("images", [{9: "images/a.tif", 2: "b.tif"}, {4: None, 9: None}], ids=["names", "ids alone"])
def test_names_say_which_image_it_is_and_ids_where_there_are_none(images, tmp_path):
    _write(tmp_path, images)
    check_truth(tmp_path, 2)


@pytest.mark.parametrize(
    ("images", "categories", "message"),
    [
        ({4: "a.tif", 9: "c.tif"}, (1, 2), r"to_ids\.json: has 'b\.tif', which .*test_gt\.json does not list"),
        ({4: "a.tif", 8: None}, (1, 2), r"to_ids\.json: has 'b\.tif', which .*test_gt\.json does not list"),
        ({4: "a.tif", 9: "b.tif"}, (0, 1), r"test_gt\.json: has no category of the id 2"),
    ],
    ids=["another name", "another id without a name", "classes from 0"],
)
def test_what_does_not_fit_is_named(images, categories, message, tmp_path):
    _write(tmp_path, images, categories)
    with pytest.raises(CellSegError, match=message):
        check_truth(tmp_path, 2)


def test_what_is_no_dataset_is_one_line(tmp_path):
    _write(tmp_path, {})
    (tmp_path / "test_gt.json").write_text("[]")
    with pytest.raises(CellSegError, match="is no COCO dataset with images and categories"):
        check_truth(tmp_path, 2)
