import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from drawing import drawn
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.inference.views import View, fuse, views_of

views = st.builds(View, st.integers(0, 3), st.booleans(), st.sampled_from([0.5, 1.0, 1.5, 2.0]))


@drawn
@given(views, st.integers(3, 20), st.integers(3, 20), st.data())
def test_boxes_follow_the_image(view, height, width, data):
    """A bright rectangle lies in the view where its box says."""
    height, width = 2 * height, 2 * width  # whole at every scale
    x0, y0 = data.draw(st.integers(0, width // 2 - 1)) * 2, data.draw(st.integers(0, height // 2 - 1)) * 2
    x1, y1 = data.draw(st.integers(x0 // 2 + 1, width // 2)) * 2, data.draw(st.integers(y0 // 2 + 1, height // 2)) * 2
    image = np.zeros((height, width, 3), np.uint8)
    image[y0:y1, x0:x1] = 255
    shown = view.image(image)
    assert shown.shape[:2] == view.size((height, width))
    box = view.boxes(torch.tensor([[x0, y0, x1, y1]]).float(), (height, width))
    rows, columns = np.nonzero(shown[..., 0] > 127)
    assert box[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    back = view.boxes_back(box, (height, width))
    assert torch.allclose(back, torch.tensor([[x0, y0, x1, y1]]).float())


@drawn
@given(st.integers(0, 3), st.booleans())
def test_masks_follow_the_image(turns, flip):
    view = View(turns, flip)
    mask = np.random.default_rng(turns).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    shown = torch.from_numpy(np.ascontiguousarray(view.image(mask)[..., 0]))[None, None]
    assert torch.equal(view.masks_back(shown)[0, 0], torch.from_numpy(mask[..., 0]))


@pytest.mark.parametrize(
    ("flips", "turns", "count"), [(False, False, 1), (True, False, 3), (False, True, 4), (True, True, 8)]
)
def test_the_views_are_all_different(flips, turns, count):
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    shown = {view.image(image).tobytes() for view in views_of(flips, turns, [1.0])}
    assert len(shown) == len(views_of(flips, turns, [1.0])) == count
    assert len(views_of(flips, turns, [0.8, 1.0])) == 2 * count
    assert image.tobytes() in shown


def _found(boxes, scores, classes):
    tensors = torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(scores), torch.tensor(classes).long()
    return Instances((50, 50), pred_boxes=Boxes(tensors[0]), scores=tensors[1].float(), pred_classes=tensors[2])


def test_what_all_views_see_keeps_its_score_and_what_one_sees_loses_it():
    first = _found([[0, 0, 10, 10], [30, 30, 40, 40]], [0.8, 0.9], [1, 2])
    second = _found([[0, 0, 10, 12]], [0.4], [1])
    fused = fuse([first, second], (50, 50), iou=0.5, score_threshold=0.05, limit=-1)
    assert fused.scores.tolist() == pytest.approx([0.6, 0.45])
    assert fused.pred_classes.tolist() == [1, 2]
    assert fused.pred_boxes.tensor[0].tolist() == pytest.approx([0, 0, 10, (0.8 * 10 + 0.4 * 12) / 1.2])
    assert fused.pred_boxes.tensor[1].tolist() == [30, 30, 40, 40]


def test_a_view_that_sees_a_cell_twice_counts_once():
    twice = _found([[0, 0, 10, 10], [0, 0, 10, 11]], [0.8, 0.7], [0, 0])
    fused = fuse([twice, _found([], [], [])], (50, 50), iou=0.5, score_threshold=0.0, limit=-1)
    assert fused.scores.tolist() == pytest.approx([0.4])


def test_classes_and_neighbours_stay_apart():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 10], [8, 0, 18, 10]]
    fused = fuse([_found(boxes, [0.5, 0.6, 0.7], [0, 1, 1])], (50, 50), iou=0.5, score_threshold=0.0, limit=-1)
    assert fused.pred_classes.tolist() == [1, 1, 0]
    assert fused.pred_boxes.tensor.tolist() == [[8, 0, 18, 10], [0, 0, 10, 10], [0, 0, 10, 10]]


def test_the_best_are_kept_above_the_threshold():
    boxes = [[20 * n, 0, 20 * n + 10, 10] for n in range(4)]
    found = [_found(boxes, [0.9, 0.2, 0.7, 0.8], [0] * 4)]
    assert fuse(found, (50, 90), 0.5, 0.5, -1).scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert fuse(found, (50, 90), 0.0, 0.0, 2).scores.tolist() == pytest.approx([0.9, 0.8])


def test_a_box_without_an_area_is_no_cell():
    fused = fuse([_found([[5, 5, 5, 9], [0, 0, 4, 4]], [0.9, 0.5], [0, 0])], (50, 50), 0.5, 0.0, -1)
    assert fused.pred_boxes.tensor.tolist() == [[0, 0, 4, 4]]


def test_nothing_seen_is_nothing_found():
    assert len(fuse([_found([], [], [])] * 3, (50, 50), 0.5, 0.05, 100)) == 0
