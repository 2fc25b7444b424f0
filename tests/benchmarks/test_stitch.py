"""The scenes are what they say and faults are counted right; how fast anything is no test says."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from benchmarks.scenes import Faults, Scene, judge, paste_together, real_cells, separate_cells, views
from benchmarks.sides import MAIN, SAHI, run_side
from benchmarks.stand_in import GroundTruthRCNN
from benchmarks.stitch import OVERLAP, TILE, put_together
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.inference.predictor import WholeImagePredictor


@pytest.fixture(scope="module")
def scene():
    """Three cells of two classes, the first two of which touch."""
    labels = np.zeros((40, 60), np.int32)
    labels[5:15, 10:20], labels[5:15, 20:30], labels[25:35, 30:40] = 1, 2, 3
    return Scene(labels, np.array([0, 1, 0]))


def _found(scene, *masks):
    labels = np.stack([np.full(scene.size, False), *masks])[1:]
    cells = [Scene(mask.astype(np.int32), np.zeros(1, np.int64)).cells() for mask in labels]
    return CellInstances.concatenate([CellInstances.empty(scene.size), *cells])


def test_the_cells_themselves_have_no_faults(scene):
    assert judge(scene, scene.cells()) == Faults(objects=3, lost=0, doubled=0, fused=0)


def test_each_fault_is_counted(scene):
    one, two, three = (scene.labels == number for number in (1, 2, 3))
    piece = three & (np.arange(60) < 33)
    assert judge(scene, _found(scene, one, two)) == Faults(2, lost=1, doubled=0, fused=0)
    assert judge(scene, _found(scene, one, two, three, piece)) == Faults(4, lost=0, doubled=1, fused=0)
    assert judge(scene, _found(scene, one | two, three)) == Faults(2, lost=2, doubled=0, fused=1)
    assert judge(scene, _found(scene, one, two, piece, scene.labels == 0)) == Faults(4, lost=1, doubled=0, fused=0)


@pytest.mark.parametrize("count", [40, 5000])
def test_drawn_cells_are_as_many_as_asked_for_and_touch_nowhere(count):
    scene = separate_cells(count)
    labels = scene.labels
    assert len(np.unique(labels)) == count + 1 == len(scene) + 1
    for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]), (labels[1:, 1:], labels[:-1, :-1])):
        assert not ((a != b) & (a > 0) & (b > 0)).any()
    assert scene.labels.size / count == pytest.approx(8192**2 / 20_000, rel=0.01)


def test_a_mosaic_holds_every_cell_of_the_data_once(sample_root):
    one, other = (real_cells(sample_root, seed) for seed in range(2))
    assert len(one) == len(other) == one.labels.max()
    assert not np.array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(np.bincount(one.labels.ravel())[1:], np.bincount(other.labels.ravel())[1:])


def test_parts_are_pasted_whole():
    parts = [np.full((size, size + 1), size) for size in (3, 5, 5, 2)]
    assert np.bincount(paste_together(parts, seed=0).ravel())[[2, 3, 5]].tolist() == [6, 12, 60]


def test_a_view_shows_what_lies_in_the_window(scene):
    windows = [(0, 0, 25, 40), (25, 0, 60, 40)]
    for window, view in zip(windows, views(scene.cells(), windows)):
        x0, y0, x1, y1 = window
        seen = np.zeros(scene.size, np.int32)
        for mask, (x, y) in zip(view.masks, view.origins):
            seen[y : y + mask.shape[0], x : x + mask.shape[1]] += mask
        expected = np.zeros(scene.size, np.int32)
        expected[y0:y1, x0:x1] = scene.labels[y0:y1, x0:x1] > 0
        np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_the_stand_in_finds_the_coded_cells(scene, image_format):
    options = ["MODEL.META_ARCHITECTURE", "GroundTruthRCNN", "MODEL.DEVICE", "cpu", "INPUT.FORMAT", image_format]
    model = build_model(get_cfg("mask_rcnn_lite0_FPN", options))
    assert isinstance(model, GroundTruthRCNN)
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["CELLSEG.CLASS_NAMES", "['a', 'b']", "INPUT.FORMAT", image_format])
    cells = WholeImagePredictor(model, cfg).predict(scene.coded())
    assert judge(scene, cells) == judge(scene, scene.cells())
    assert sorted(cells.classes.tolist()) == [0, 0, 1]
    image = torch.from_numpy(scene.coded()[..., :: 1 if image_format == "RGB" else -1].transpose(2, 0, 1).copy())
    (pasted,) = model([{"image": image}])
    assert pasted["instances"].pred_masks.sum(dim=(1, 2)).tolist() == [100, 100, 100]


def test_this_package_loses_none():
    scene = separate_cells(400)
    result = run_side(MAIN, "benchmarks.stitch:put_together", scene.cells(), TILE, OVERLAP)
    assert judge(scene, result.value["cells"]) == Faults(400, 0, 0, 0)
    assert result.value["predictions"] > 400
    assert result.memory.peak > result.memory.before > 0
    assert len(put_together(scene.cells(), TILE, OVERLAP)["cells"]) == 400


@pytest.mark.sahi
def test_both_sides_see_the_same_cells_where_one_tile_holds_them(scene):
    theirs = run_side(SAHI, "benchmarks.with_sahi:merge", scene.cells(), 64, OVERLAP).value
    ours = put_together(scene.cells(), 64, OVERLAP)
    assert theirs["predictions"] == ours["predictions"] == 3
    assert judge(scene, theirs["cells"]) == judge(scene, ours["cells"])


def test_a_side_that_fails_says_why():
    with pytest.raises(CellSegError, match=r"put_together failed: (.|\n)*has no attribute"):
        run_side(MAIN, "benchmarks.stitch:put_together", None, TILE, OVERLAP)
