"""Windows and cores against what they promise, pixel by pixel."""

from itertools import pairwise

import numpy as np
import pytest
from drawing import drawn
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.cells.tiling import TileGrid, halo_pixels, overlap_pixels, tile_windows

sides = st.integers(1, 70)
tile_sizes = st.integers(1, 40)
overlaps = st.floats(0, 1, exclude_max=True)


def cover(windows, height, width):
    """How many windows each pixel lies in."""
    count = np.zeros((height, width), int)
    for x0, y0, x1, y1 in windows:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        count[y0:y1, x0:x1] += 1
    return count


@drawn
@given(sides, sides, tile_sizes)
def test_tiles_without_overlap_partition_the_image(height, width, tile_size):
    windows = tile_windows(height, width, tile_size)
    assert (cover(windows, height, width) == 1).all()
    assert all(x0 % tile_size == 0 and y0 % tile_size == 0 for x0, y0, _, _ in windows)


@drawn
@given(sides, sides, tile_sizes, overlaps)
def test_tiles_cover_every_pixel_and_share_what_is_stated(height, width, tile_size, overlap):
    windows = tile_windows(height, width, tile_size, overlap)
    assert (cover(windows, height, width) >= 1).all()
    shared = overlap_pixels(tile_size, overlap)
    assert shared == round(tile_size * overlap) or shared == tile_size - 1
    for axis in (0, 1):
        spans = sorted({(window[axis], window[axis + 2]) for window in windows})
        assert len(windows) == len(set(windows))
        assert all(stop - start == tile_size for start, stop in spans[:-1])
        assert all(stop - next_start == shared for (_, stop), (next_start, _) in pairwise(spans))


@drawn
@given(sides, sides, tile_sizes, overlaps)
def test_no_tile_lies_inside_another(height, width, tile_size, overlap):
    windows = np.array(tile_windows(height, width, tile_size, overlap))
    starts_inside = (windows[:, None, :2] >= windows[None, :, :2]).all(axis=2)
    stops_inside = (windows[:, None, 2:] <= windows[None, :, 2:]).all(axis=2)
    inside = starts_inside & stops_inside
    assert inside.sum() == len(windows)  # each in itself only


@drawn
@given(sides, sides, tile_sizes, overlaps)
def test_cores_partition_the_image_and_windows_are_cores_with_a_halo(height, width, tile_size, overlap):
    grid = TileGrid(height, width, tile_size, overlap)
    tiles = list(grid)
    assert len(tiles) == len(grid)
    assert (cover([tile.core for tile in tiles], height, width) == 1).all()
    for x0, y0, x1, y1 in (tile.core for tile in tiles):
        assert x1 - x0 <= grid.core_size
        assert y1 - y0 <= grid.core_size
    for tile in tiles:
        x0, y0, x1, y1 = tile.core
        grown = (x0 - grid.halo, y0 - grid.halo, x1 + grid.halo, y1 + grid.halo)
        assert tile.window == (max(grown[0], 0), max(grown[1], 0), min(grown[2], width), min(grown[3], height))
        assert tile.window[2] - tile.window[0] <= tile_size
        assert tile.window[3] - tile.window[1] <= tile_size


@drawn
@given(st.integers(1, 40), st.integers(1, 40), overlaps)
def test_an_image_that_fits_into_one_tile_is_one_core_without_a_halo(height, width, overlap):
    grid = TileGrid(height, width, max(height, width), overlap)
    assert grid.halo == 0
    assert [(tile.core, tile.window) for tile in grid] == [((0, 0, width, height), (0, 0, width, height))]


@drawn
@given(tile_sizes, overlaps)
def test_a_halo_is_half_of_the_overlap_and_leaves_a_core(tile_size, overlap):
    halo = halo_pixels(tile_size, overlap)
    assert tile_size - 2 * halo >= 1
    assert halo <= overlap_pixels(tile_size, overlap) / 2 + 1


def test_the_last_tile_of_a_row_is_short():
    assert tile_windows(3, 10, tile_size=4) == [(0, 0, 4, 3), (4, 0, 8, 3), (8, 0, 10, 3)]


@pytest.mark.parametrize(
    ("height", "width", "tile_size", "overlap", "message"),
    [
        pytest.param(8, 8, 0, 0.0, "tile_size must be at least 1, not 0", id="no tile"),
        pytest.param(8, 8, -4, 0.0, "tile_size must be at least 1, not -4", id="negative tile"),
        pytest.param(8, 8, 4, 1.0, r"overlap must be in \[0, 1\), not 1.0", id="tiles that never move on"),
        pytest.param(8, 8, 4, -0.1, r"overlap must be in \[0, 1\), not -0.1", id="gaps between tiles"),
        pytest.param(8, 8, 4, float("nan"), r"overlap must be in \[0, 1\), not nan", id="not a number"),
        pytest.param(0, 8, 4, 0.0, "at least 1 pixel, not 0", id="no row"),
    ],
)
def test_impossible_tilings_are_refused(height, width, tile_size, overlap, message):
    for tiling in (tile_windows, TileGrid):
        with pytest.raises(ValueError, match=message):
            tiling(height, width, tile_size, overlap)
