"""What a model is unsure of: cells come back from turned views exactly, and the numbers are those of the parts."""

import numpy as np
import pytest
from drawing import discs

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.rle import column_runs
from cellseg_d2.cells.selection import Selection
from cellseg_d2.images.formats import read_whole
from cellseg_d2.images.tiff import INTENSITY_RULE
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.inference.ranking import VIEWS, cells_back, expect, halfway
from cellseg_d2.inference.views import views_of

ALL_VIEWS = views_of(flips=True, quarter_turns=True, scales=[1.0])


def cells_of(labels):
    runs = column_runs(labels)[1]
    return CellInstances.from_runs(runs, np.zeros(len(runs), np.int64), np.linspace(0.9, 0.5, len(runs)))


@pytest.mark.parametrize("view", ALL_VIEWS, ids=lambda view: f"{view.quarter_turns} turns, flip {view.flip}")
def test_cells_of_a_view_come_back_to_their_pixels(view):
    labels = discs(np.random.default_rng(0), 40, 60, 8)
    there = cells_back(cells_of(np.ascontiguousarray(view.image(labels))), view, labels.shape)
    assert there.image_size == labels.shape
    assert np.array_equal(there.boxes, there.mask_boxes)
    found = {tuple(np.flatnonzero(cell == 1).tolist()) for cell in painted(there)}
    assert found == {tuple(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)[1:]}


def painted(cells):
    """Each cell's mask in the frame of its image."""
    for number in range(len(cells)):
        yield cells[np.array([number])].label_image()


def test_the_views_are_others_than_the_image_itself():
    assert all(view.flip or view.quarter_turns for view in VIEWS)


def test_a_threshold_halfway_lies_between():
    selection = Selection(["a", "b"], 0.4, {"b": 0.8})
    assert halfway(selection, 0.0).least == pytest.approx({"a": 0.2, "b": 0.4})
    assert halfway(selection, 1.0).least == pytest.approx({"a": 0.7, "b": 0.9})


def test_the_numbers_are_of_the_cells_that_people_see_and_that_thresholds_and_views_differ_in(sample_root):
    predictor = WholeImagePredictor.from_checkpoint("nuclei")
    image = read_whole(sample_root / "test_release" / "3934a094e853.tif", INTENSITY_RULE)[:160, :160]
    found = expect(predictor, image)
    assert found.cells == len(predictor.confident(predictor.predict(image)))
    assert found.gain == (found.views + found.thresholds) / 2 > 0
    assert len(found.shown) == len(found.doubted) >= found.cells
    assert found.thresholds <= np.count_nonzero(found.doubted) < len(found.shown)
