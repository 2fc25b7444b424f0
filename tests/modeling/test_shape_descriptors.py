"""Shapes whose measures are known, and properties that hold for every mask."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon, box
from skimage.draw import ellipse, polygon
from skimage.measure import regionprops

from cellseg_d2.modeling.shape_descriptors import CENTRE, SCALE, shape_descriptors

NAMES = ["area", "major", "minor", "width", "height", "elongation", "fill", "compactness", "solidity", "convexity"]


def measured(masks, boxes):
    """The descriptors by name, before shift and scale, lengths and areas in pixels."""
    found = shape_descriptors(masks, boxes) * torch.tensor(SCALE) + torch.tensor(CENTRE)
    values = dict(zip(NAMES, found.unbind(1)))
    return {name: value.exp() if name in NAMES[:5] else value for name, value in values.items()}


def boxed(mask):
    """A mask of ones and zeros cut to its box, (1, h, w), and the box, (1, 4)."""
    (part,) = regionprops(mask.astype(int))
    y0, x0, y1, x1 = part.bbox
    return torch.from_numpy(part.image.astype(np.float32))[None], torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32)


def drawn_ellipse(major, minor, turn):
    mask = np.zeros((160, 160), np.uint8)
    mask[ellipse(80, 80, major / 2, minor / 2, rotation=turn)] = 1
    return mask


@pytest.mark.parametrize("turn", [0.0, 0.4, math.pi / 4, 1.3])
@pytest.mark.parametrize(("major", "minor"), [(60, 60), (100, 40), (120, 24)])
def test_an_ellipse_has_its_area_and_axes(major, minor, turn):
    found = measured(*boxed(drawn_ellipse(major, minor, turn)))
    assert found["area"].item() == pytest.approx(math.pi / 4 * major * minor, rel=0.03)
    assert found["major"].item() == pytest.approx(major, rel=0.03)
    assert found["minor"].item() == pytest.approx(minor, rel=0.05)
    assert found["fill"].item() == pytest.approx(1, abs=0.01)
    assert found["solidity"].item() > 0.92


def test_a_square_has_its_perimeter_and_a_full_hull():
    square = torch.ones(1, 40, 40)
    found = measured(square, torch.tensor([[5.0, 5.0, 45.0, 45.0]]))
    assert found["area"].item() == pytest.approx(1600)
    assert found["compactness"].item() == pytest.approx(math.pi / 4, rel=0.02)
    assert found["solidity"].item() == pytest.approx(1, abs=0.005)


def test_what_is_missing_from_the_hull_is_missing_from_the_solidity():
    """A square without a quarter of it, whose hull lacks a triangle of an eighth."""
    mask = torch.ones(1, 40, 40)
    mask[:, :20, :20] = 0
    found = measured(mask, torch.tensor([[0.0, 0.0, 40.0, 40.0]]))
    assert found["solidity"].item() == pytest.approx(0.75 / 0.875, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_areas_and_axes_agree_with_scikit_image_and_the_hull_with_shapely(seed):
    chance = np.random.default_rng(seed)
    angles = np.sort(chance.uniform(0, 2 * np.pi, 9))
    reach = chance.uniform(14, 40, 9)
    mask = np.zeros((100, 100), np.uint8)
    mask[polygon(50 + reach * np.sin(angles), 50 + reach * np.cos(angles))] = 1
    parts = regionprops(mask)
    if not parts or parts[0].area < 200 or len(regionprops((mask > 0).astype(int))) != 1:
        return
    found = measured(*boxed(mask))
    (part,) = parts
    assert found["area"].item() == pytest.approx(part.area, rel=1e-4)
    assert found["major"].item() == pytest.approx(part.axis_major_length, rel=1e-3)
    assert found["minor"].item() == pytest.approx(part.axis_minor_length, rel=1e-2)
    assert found["solidity"].item() < part.solidity + 0.02
    assert found["solidity"].item() == pytest.approx(part.area / enclosed_area(part.coords), abs=2e-3)


def enclosed_area(pixels):
    """The area inside of the 32 lines that touch the corners of pixels, (N, 2)."""
    corners = np.concatenate([pixels + offset for offset in ((0, 0), (0, 1), (1, 0), (1, 1))])
    inside = box(-500, -500, 500, 500)
    for angle in np.arange(32) * (np.pi / 16):
        ahead, side = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        foot = ahead * (corners @ ahead).max()
        half = [foot + 900 * side, foot - 900 * side, foot - 900 * side - 900 * ahead, foot + 900 * side - 900 * ahead]
        inside = inside.intersection(Polygon(half))
    return inside.area


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_quarter_turns_and_mirroring_change_the_sides_of_the_box_alone(seed, turns):
    chance = torch.Generator().manual_seed(seed)
    masks = torch.rand(4, 28, 28, generator=chance)
    boxes = torch.tensor([[3.0, 4.0, 33.0, 64.0]]).repeat(4, 1)
    turned = boxes if turns == 2 else torch.tensor([[0.0, 0.0, 60.0, 30.0]]).repeat(4, 1)
    before = shape_descriptors(masks, boxes)
    after = shape_descriptors(torch.rot90(masks.flip(2), turns, (1, 2)), turned)
    if turns != 2:
        after[:, [3, 4]] = after[:, [4, 3]]
    assert torch.allclose(before, after, atol=2e-3)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_empty_and_full_masks_and_boxes_without_an_area_are_finite(value):
    masks = torch.full((2, 28, 28), value)
    found = shape_descriptors(masks, torch.tensor([[4.0, 4.0, 4.0, 4.0], [0.0, 0.0, 4000.0, 3000.0]]))
    assert found.isfinite().all()
    assert shape_descriptors(masks[:0], torch.zeros(0, 4)).shape == (0, len(CENTRE))
