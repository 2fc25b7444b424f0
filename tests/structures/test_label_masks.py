"""Label maps in the place of bitmasks: the same answers, without the stack."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances
from drawing import discs, drawn, overlapping_masks
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.cells.rle import column_runs, paint
from cellseg_d2.structures import LabelMasks


def both(masks):
    """The same (N, H, W) masks as label maps and as bitmasks."""
    masks = np.asarray(masks)
    layers: list[np.ndarray] = []
    layer_of = []
    for number, mask in enumerate(masks, start=1):
        place = next((place for place, layer in enumerate(layers) if not layer[mask].any()), len(layers))
        if place == len(layers):
            layers.append(np.zeros(mask.shape, np.int32))
        layers[place][mask] = number
        layer_of.append(place)
    ids = torch.arange(1, len(masks) + 1)
    return LabelMasks(torch.from_numpy(np.stack(layers)), torch.tensor(layer_of), ids), BitMasks(
        torch.from_numpy(masks)
    )


def drawn_cells(seed, height=200, width=240, count=60, radius=20):
    labels = discs(np.random.default_rng(seed), height, width, count, radius)
    values, cells = column_runs(labels)
    layers, layer_of = paint(cells.rles(), labels.shape)
    masks = np.stack([labels == value for value in values])
    ids = torch.arange(1, len(cells) + 1)
    return LabelMasks(torch.from_numpy(layers), torch.from_numpy(layer_of), ids), BitMasks(torch.from_numpy(masks))


def jittered(boxes, seed, low=-4.0, high=4.0):
    """Proposals as the RPN gives them: near the cells, with fractions, now and then beyond the image."""
    generator = torch.Generator().manual_seed(seed)
    moved = boxes + low + (high - low) * torch.rand(boxes.shape, generator=generator)
    moved[:, 2:] = torch.maximum(moved[:, 2:], moved[:, :2] + 0.7)
    return moved


@drawn
@given(overlapping_masks(min_count=1))
def test_areas_boxes_and_masks_are_those_of_bitmasks(masks):
    ours, theirs = both(masks)
    assert len(ours) == len(theirs)
    assert ours.area().tolist() == theirs.tensor.sum(dim=(1, 2)).tolist()
    assert ours.nonempty().tolist() == theirs.nonempty().tolist()
    assert torch.equal(ours.get_bounding_boxes().tensor, theirs.get_bounding_boxes().tensor)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs.tensor))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("radius", [4, 20, 60], ids=["under a bin", "cells", "several points a bin"])
def test_crops_are_those_of_bitmasks(seed, radius):
    ours, theirs = drawn_cells(seed, radius=radius, count=40)
    boxes = jittered(theirs.get_bounding_boxes().tensor, seed)
    expected = theirs.crop_and_resize(boxes, 28)
    equal = (ours.crop_and_resize(boxes, 28) == expected).float()
    assert equal.mean() > 0.9999  # the same sum in another order: a value of exactly a half may fall either way
    assert expected.float().mean() > 0.1


@drawn
@given(overlapping_masks(min_count=1), st.integers(0, 99))
def test_crops_of_any_masks_and_boxes_agree(masks, seed):
    ours, theirs = both(masks)
    boxes = jittered(theirs.get_bounding_boxes().tensor, seed, -9.0, 9.0)
    equal = ours.crop_and_resize(boxes, 14) == theirs.crop_and_resize(boxes, 14)
    assert equal.float().mean() >= 0.99


def test_a_box_without_an_area_gives_an_empty_crop():
    ours, _ = drawn_cells(0, count=2)
    boxes = torch.tensor([[5.0, 5.0, 5.0, 9.0]] * len(ours))
    assert not ours.crop_and_resize(boxes, 28).any()


def test_large_boxes_are_cropped_in_parts(monkeypatch):
    ours, theirs = drawn_cells(1, count=10)
    boxes = jittered(theirs.get_bounding_boxes().tensor, 1)
    whole = ours.crop_and_resize(boxes, 28)
    monkeypatch.setattr("cellseg_d2.structures.label_masks.SAMPLES_AT_ONCE", 1000)
    assert torch.equal(ours.crop_and_resize(boxes, 28), whole)


def test_points_are_sampled_as_pointrend_samples_bitmasks():
    from detectron2.projects.point_rend.point_features import point_sample

    ours, theirs = drawn_cells(2, 60, 80, 20)
    points = torch.rand(len(ours), 50, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([84.0, 64.0]) - 2
    expected = point_sample(theirs.tensor.float()[:, None], points / torch.tensor([80.0, 60.0]), align_corners=False)
    torch.testing.assert_close(ours.sample_points(points), expected[:, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "item",
    [3, slice(1, 5), [4, 0, 4], torch.tensor([2, 2, 5]), torch.tensor([True, False] * 3)],
    ids=["int", "slice", "list", "index tensor", "bool tensor"],
)
def test_indexing_picks_cells_and_copies_no_pixel(item):
    ours, theirs = drawn_cells(3, count=80)
    ours, theirs = ours[:6], theirs[:6]
    picked, expected = ours[item], theirs[item]
    assert torch.equal(torch.stack(list(picked)), expected.tensor)
    assert picked.layers.data_ptr() == ours.layers.data_ptr()
    assert torch.equal(picked.get_bounding_boxes().tensor, expected.get_bounding_boxes().tensor)


def test_sets_are_joined_and_shared_label_maps_kept_once():
    ours, theirs = drawn_cells(4)
    joined = LabelMasks.cat([ours[:3], ours[5:7]])
    assert torch.equal(torch.stack(list(joined)), BitMasks.cat([theirs[:3], theirs[5:7]]).tensor)
    assert joined.layers.shape == ours.layers.shape
    other, _ = drawn_cells(5)
    assert len(LabelMasks.cat([ours, other]).layers) == len(ours.layers) + len(other.layers)
    with pytest.raises(ValueError, match="sizes"):
        LabelMasks.cat([ours, drawn_cells(6, 50, 50)[0]])


def test_no_cell_is_no_trouble():
    empty = LabelMasks(torch.zeros(1, 8, 9, dtype=torch.int32), torch.zeros(0), torch.zeros(0))
    assert empty.area().shape == (0,)
    assert empty.get_bounding_boxes().tensor.shape == (0, 4)
    assert empty.crop_and_resize(torch.zeros(0, 4), 28).shape == (0, 28, 28)
    assert empty.sample_points(torch.zeros(0, 7, 2)).shape == (0, 7)


def test_labels_stay_integers_and_travel_in_instances():
    ours, _ = drawn_cells(7, count=9)
    instances = Instances(ours.image_size)
    instances.gt_masks = ours
    moved = instances.to(torch.device("cpu"))
    assert moved.gt_masks.layers.dtype == torch.int32
    assert len(moved[torch.tensor([0, 0, 1])].gt_masks) == 3


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected"):
        LabelMasks(torch.zeros(8, 9), torch.zeros(0), torch.zeros(0))
    ours, _ = drawn_cells(8, count=5)
    with pytest.raises(ValueError, match="boxes for"):
        ours.crop_and_resize(torch.zeros(99, 4), 28)
