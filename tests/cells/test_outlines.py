"""Outlines along the edges of pixels."""

import numpy as np
import pytest
import shapely
from drawing import drawn
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellseg_d2.annotations.shapes import inside_rings
from cellseg_d2.cells.outlines import in_one_line, trace

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 16), st.integers(1, 16))).filter(np.any)


def geometry(polygons):
    return shapely.MultiPolygon([shapely.Polygon(polygon[0], polygon[1:]) for polygon in polygons])


def draw(shape, size):
    """(H, W) bool, the pixels of an image of (height, width) whose centres lie inside."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return shapely.contains_xy(shape, x.ravel(), y.ravel()).reshape(size)


def picture(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


def check(mask, origin=(0, 0)):
    polygons = trace(mask, origin)
    shape = geometry(polygons)
    assert shapely.is_valid(shape), shapely.is_valid_reason(shape)
    assert shape.area == np.count_nonzero(mask)
    full = np.zeros((mask.shape[0] + origin[1], mask.shape[1] + origin[0]), bool)
    full[origin[1] :, origin[0] :] = mask
    assert np.array_equal(draw(shape, full.shape), full)
    for outer, *holes in polygons:
        assert shapely.LinearRing(outer).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)
        for ring in (outer, *holes):
            assert ring.dtype == np.int64
            steps = np.diff(ring, axis=0, append=ring[:1])
            assert ((steps != 0).sum(axis=1) == 1).all()  # along the edges,
            assert (steps[:, 0] != 0).sum() * 2 == len(ring)  # with a turn at each corner


@drawn
@given(MASKS, st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_the_outline_is_valid_and_gives_the_mask_back(mask, origin):
    check(mask, origin)


@drawn
@given(MASKS, st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_lines_without_holes_give_the_mask_back_by_the_even_odd_rule(mask, origin):
    lines = [in_one_line(polygon).astype(float) for polygon in trace(mask, origin)]
    rows, columns = inside_rings(lines, (24, 24))
    wanted = np.nonzero(mask)
    assert np.array_equal((rows - origin[1], columns - origin[0]), wanted)
    for polygon, line in zip(trace(mask, origin), lines):
        assert len(line) == len(polygon[0]) + sum(len(hole) + 2 for hole in polygon[1:])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.6, 0.9])
def test_noise_gives_the_mask_back(share):
    check(np.random.default_rng(0).random((60, 50)) < share, (3, 7))


def test_every_mask_of_three_by_four_pixels():
    for number in range(1, 2**12):
        check(((number >> np.arange(12)) & 1).astype(bool).reshape(3, 4))


@pytest.mark.parametrize(
    ("mask", "holes"),
    [
        pytest.param(picture("#"), [0], id="one pixel"),
        pytest.param(picture("##", ".#"), [0], id="corner"),
        pytest.param(picture("#.", ".#"), [0, 0], id="pixels that share a corner"),
        pytest.param(picture("####", "#..#", "####"), [1], id="hole"),
        pytest.param(picture("####", "#.##", "##.#", "####"), [2], id="holes that share a corner"),
        pytest.param(picture(".#.", "#.#", ".#."), [0, 0, 0, 0], id="four pixels around none"),
        pytest.param(picture(".##", "#.#", "###"), [1], id="a ring that closes at a corner"),
        pytest.param(picture("#####", "#...#", "#.#.#", "#...#", "#####"), [1, 0], id="a part in a hole"),
        pytest.param(picture("###.###", "#.#.#.#", "###.###"), [1, 1], id="two rings"),
    ],
)
def test_parts_and_holes(mask, holes):
    check(mask)
    assert sorted((len(polygon) - 1 for polygon in trace(mask)), reverse=True) == holes


def test_corners_of_a_pixel_are_whole_numbers_from_its_upper_left():
    assert [ring.tolist() for ring in trace(np.ones((1, 1), bool), (4, 7))[0]] == [[[4, 7], [5, 7], [5, 8], [4, 8]]]


@pytest.mark.parametrize("shape", [(3, 3), (0, 0), (0, 4)])
def test_a_mask_without_a_pixel_is_refused(shape):
    with pytest.raises(ValueError, match="without a pixel"):
        trace(np.zeros(shape, bool))
