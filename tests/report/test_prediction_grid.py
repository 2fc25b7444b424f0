import json

import cv2
import numpy as np
import pytest

from cellseg_d2.data.samples import list_images
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.coco_results import to_results, write_results
from cellseg_d2.instances import CellInstances
from cellseg_d2.report.prediction_grid import write_prediction_grid


@pytest.fixture
def images(sample_root):
    return list_images(sample_root / "test_release", sample_root / "test_image_name_to_ids.json")[:2]


def test_a_row_shows_image_truth_and_the_cells_of_enough_score(images, sample_root, tmp_path):
    truth = json.loads((sample_root / "test_gt.json").read_text())
    cell = next(cell for cell in truth["annotations"] if cell["image_id"] == images[0].id)
    size = tuple(cell["segmentation"]["size"])
    found = CellInstances.from_rles([cell["segmentation"]] * 2, [0, 1], size, [0.9, 0.2])
    write_results(tmp_path / "results.json", to_results(found, images[0].id))
    write_prediction_grid(
        images, tmp_path / "results.json", tmp_path / "grid.png", ground_truth=sample_root / "test_gt.json"
    )
    grid = cv2.imread(str(tmp_path / "grid.png"))[..., ::-1]
    height, width = (max(image.size[side] for image in images) + 4 for side in (0, 1))
    assert grid.shape == (2 * height + 4, 3 * width + 4, 3)
    plain, drawn = (grid[4 : 4 + size[0], 4 + column * width :][:, : size[1]] for column in (0, 2))
    np.testing.assert_array_equal(plain, images[0].read("range:0,255"))
    changed = np.argwhere((plain != drawn).any(axis=2))
    x, y, w, h = cell["bbox"]
    assert changed.min(axis=0).tolist() == [y, x]
    assert changed.max(axis=0).tolist() == [y + h - 1, x + w - 1]


def test_a_dataset_instead_of_results_is_named(images, sample_root, tmp_path):
    with pytest.raises(CellSegError, match=r"test_gt.json: holds no COCO results"):
        write_prediction_grid(images, sample_root / "test_gt.json", tmp_path / "grid.png")


def test_results_that_are_no_json_are_named(images, tmp_path):
    (tmp_path / "results.json").write_text("[")
    with pytest.raises(CellSegError, match=r"results.json: is not JSON"):
        write_prediction_grid(images, tmp_path / "results.json", tmp_path / "grid.png")
