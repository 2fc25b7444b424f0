"""Outlines and masks as label maps: which pixels they cover, and that nothing is lost in silence."""

import logging
from pathlib import Path

import numpy as np
import pytest
from drawing import drawn, overlapping_masks
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellseg_d2.annotations.shapes import Shape, inside_rings, paint_shapes
from cellseg_d2.cells.outlines import trace

SIZE = (9, 11)
rings = st.lists(
    st.lists(st.tuples(*[st.integers(-12, 56).map(lambda quarter: quarter / 4)] * 2), min_size=0, max_size=7),
    min_size=1,
    max_size=3,
)


def arrays(corners):
    return [np.array(ring, np.float64).reshape(-1, 2) for ring in corners]


def box(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def painted(pixels, size=SIZE):
    mask = np.zeros(size, bool)
    mask[pixels] = True
    assert mask.sum() == len(pixels[0])
    return mask


@drawn
@given(rings, st.sampled_from([0.0, 0.5]))
def test_each_pixel_is_asked_for_by_the_even_odd_rule(corners, centre):
    found = painted(inside_rings(arrays(corners), SIZE, centre))
    for y, x in np.ndindex(*SIZE):
        crossings = 0
        for ring in (ring for ring in corners if len(ring) > 2):
            for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1]):
                if (y0 <= y + centre) != (y1 <= y + centre):
                    crossings += x0 + (y + centre - y0) * (x1 - x0) / (y1 - y0) <= x + centre
        assert found[y, x] == crossings % 2


@drawn
@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_outlines_along_the_pixels_edges_give_the_mask_again(mask):
    """Those that we write, closed or not, with holes and parts that touch at a corner."""
    outlines = [ring.astype(np.float64) for polygon in trace(mask) for ring in polygon] if mask.any() else []
    closed = [np.concatenate([ring, ring[:1]]) for ring in outlines]
    assert np.array_equal(painted(inside_rings(outlines, mask.shape), mask.shape), mask)
    assert np.array_equal(painted(inside_rings(closed, mask.shape), mask.shape), mask)


@drawn
@given(st.floats(0, 11), st.floats(0, 9), rings)
def test_parts_with_a_common_border_share_no_pixel_and_leave_none_out(x, y, corners):
    parts = [box(0, 0, x, y), box(x, 0, 11, y), box(0, y, x, 9), box(x, y, 11, 9)]
    counts = sum(painted(inside_rings(arrays([part]), SIZE)).astype(int) for part in parts)
    assert (counts == 1).all()


def test_outlines_of_any_extent_take_memory_for_the_image_only():
    huge = arrays([box(-1e12, -1e12, 1e12, 1e12)])
    assert painted(inside_rings(huge, SIZE)).all()


@drawn
@given(overlapping_masks(min_count=1), st.data())
def test_overlaps_lose_no_pixel(masks, data):
    categories = [data.draw(st.integers(1, 2)) for _ in masks]
    size = masks[0].shape
    shapes = [Shape.of_mask(str(n), c, mask, size) for n, (mask, c) in enumerate(zip(masks, categories))]
    layers = paint_shapes(Path("a"), shapes, size)
    for number, (mask, category) in enumerate(zip(masks, categories), start=1):
        (found,) = [layer for layer in layers if (layer.labels == number).any()]
        assert found.categories == (category,)
        assert np.array_equal(found.labels == number, mask)
    assert sum(len(np.unique(layer.labels[layer.labels > 0])) for layer in layers) == len(masks)


def test_labels_may_be_given():
    shapes = [Shape.of_rings("a", 1, arrays([box(0, 0, 2, 2)]), SIZE, label=70)]
    (layer,) = paint_shapes(Path("a"), shapes, SIZE)
    assert np.unique(layer.labels).tolist() == [0, 70]


def test_a_mask_is_placed_and_cut():
    shape = Shape.of_mask("a", 1, np.ones((3, 4), bool), SIZE, origin=(9, -1))
    expected = np.zeros(SIZE, bool)
    expected[:2, 9:] = True
    assert np.array_equal(painted(shape.pixels), expected)
    assert shape.box == (9, -1, 13, 2)


def test_what_is_left_out_or_cut_is_one_warning_with_names(caplog):
    outlines = {
        "whole": box(1, 1, 3, 3),
        "cut": box(8, 7, 20, 20),
        "right": box(11, 0, 12, 3),
        "above": box(0, -5, 3, 0),
        **{f"between {number}": box(1.6, 1.6, 2.4, 2.4) for number in range(7)},
    }
    shapes = [Shape.of_rings(name, 1, arrays([ring]), SIZE) for name, ring in outlines.items()]
    shapes.append(Shape.of_mask("empty", 1, np.zeros((2, 2), bool), SIZE))
    with caplog.at_level(logging.WARNING):
        layers = paint_shapes(Path("a.json"), shapes, SIZE)
    assert [np.unique(layer.labels).tolist() for layer in layers] == [[0, 1, 2]]
    (record,) = caplog.records
    assert record.getMessage() == (
        "a.json: of 12 objects 1 (cut) cut at the image's edge; 2 (right, above) outside the image and left out; "
        "8 (between 0, between 1, between 2, between 3, between 4 and 3 more) without a pixel and left out"
    )


@pytest.mark.parametrize("shapes", [[], [Shape.of_mask("empty", 1, np.zeros((2, 2), bool), SIZE)]])
def test_an_image_without_a_pixel_of_an_object_has_no_map(shapes):
    assert paint_shapes(Path("a"), shapes, SIZE) == []
