"""Tiled must equal untiled: a stand-in model returns what it can see of the truth in each tile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from stitching import (
    TOLERANCE,
    cells_of,
    grid,
    jittered,
    largest_side,
    same,
    see,
    whole,
)

from cellseg_d2.cells.tiling import TileGrid
from cellseg_d2.inference.stitch import stitch

SAMPLE = Path(__file__).parents[2] / "datasets" / "sample" / "train"
relaxed = settings(deadline=None, max_examples=150, derandomize=True)


# Drawn scenes


@st.composite
def scenes(draw, gap=0, smallest=2, shapes=("rectangle", "disc"), count=40):
    """A label map of rectangles and discs that may touch (or keep ``gap`` pixels apart) but never overlap."""
    height, width = draw(st.integers(20, 110)), draw(st.integers(20, 110))
    largest = draw(st.integers(smallest, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = np.zeros((height, width), np.int32)
    for _ in range(draw(st.integers(0, count))):
        h, w = random.integers(smallest, largest + 1, 2)
        shape = np.ones((h, w), bool)
        if shapes[random.integers(len(shapes))] == "disc":
            y, x = np.ogrid[:h, :w]
            shape = ((2 * y - h + 1) / h) ** 2 + ((2 * x - w + 1) / w) ** 2 <= 1
        if h > height or w > width:
            continue
        top, left = random.integers(0, height - h + 1), random.integers(0, width - w + 1)
        around = labels[max(top - gap, 0) : top + h + gap, max(left - gap, 0) : left + w + gap]
        if not around.any():
            labels[top : top + h, left : left + w][shape] = labels.max() + 1
    return labels


@st.composite
def mosaics(draw):
    """A label map without background: every cell touches its neighbours, and some are larger than a tile."""
    height, width = draw(st.integers(20, 90)), draw(st.integers(20, 90))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    seeds = np.ones((height, width), bool)
    seeds[random.integers(0, height, 25), random.integers(0, width, 25)] = False
    nearest = ndimage.distance_transform_edt(seeds, return_distances=False, return_indices=True)
    codes = nearest[0] * width + nearest[1]
    labels, number = np.zeros((height, width), np.int32), 0
    for code in np.unique(codes):
        parts, count = ndimage.label(codes == code, np.ones((3, 3)))
        labels[parts > 0] = parts[parts > 0] + number
        number += count
    return labels


@relaxed
@given(scenes(), st.integers(1, 60), st.integers(0, 6))
def test_tiled_equals_untiled_where_the_halo_suffices(labels, core, tolerance):
    truth = whole(labels)
    halo = int(largest_side(truth) / 2 + tolerance + 1) + 1
    tiles = grid(labels, core, halo)

    cells, report = stitch(((tile, see(labels, tile.window)) for tile in tiles), labels.shape, tolerance=tolerance)

    assert cells_of(cells) == cells_of(truth)
    assert (report.owned, report.large) == (len(truth), 0)
    seen = sum(len(see(labels, tile.window)) for tile in tiles)
    assert report.owned + report.rejected + report.deduplicated == seen


@settings(relaxed, max_examples=60)
@given(st.one_of(scenes(), mosaics()), st.integers(1, 50), st.integers(1, 25), st.integers(0, 6))
def test_every_cell_comes_once_and_whole_with_any_halo(labels, core, halo, tolerance):
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, labels.max() + 1)
    tiles = grid(labels, core, halo)
    pieces = [(tile, see(labels, tile.window, classes)) for tile in tiles]

    cells, report = stitch(pieces, labels.shape, tolerance=tolerance)

    truth = whole(labels, classes)
    assert cells_of(cells) == cells_of(truth)
    assert np.array_equal(cells.boxes, cells.mask_boxes)
    assert report.owned + report.large == len(truth)


@relaxed
@given(scenes(gap=1), st.integers(3, 50))
def test_tiles_without_an_overlap_join_across_the_seam(labels, core):
    pieces = [(tile, see(labels, tile.window)) for tile in grid(labels, core, halo=0)]

    cells, _ = stitch(pieces, labels.shape)

    assert cells_of(cells) == cells_of(whole(labels))


@relaxed
@given(scenes(smallest=8, shapes=("rectangle",)), st.integers(8, 60), st.integers(0, 2**32 - 1))
def test_jitter_loses_and_doubles_nothing(labels, core, seed):
    random = np.random.default_rng(seed)
    truth = whole(labels)
    halo = (largest_side(truth) + 2) // 2 + TOLERANCE + 2
    pieces = [(tile, jittered(labels, tile.window, random)) for tile in grid(labels, core, halo)]

    cells, report = stitch(pieces, labels.shape, tolerance=TOLERANCE)

    assert report.large == 0
    found = sorted(int(np.bincount(labels[y0:y1, x0:x1].ravel()).argmax()) for x0, y0, x1, y1 in cells.mask_boxes)
    assert found == list(range(1, len(truth) + 1))


@relaxed
@given(
    scenes(smallest=8, shapes=("rectangle",)), st.integers(4, 60), st.integers(0, 20), st.randoms(use_true_random=False)
)
def test_the_order_of_the_tiles_changes_nothing(labels, core, halo, shuffler):
    random = np.random.default_rng(1)
    pieces = [(tile, jittered(labels, tile.window, random)) for tile in grid(labels, core, halo)]
    expected, report = stitch(pieces, labels.shape)

    shuffler.shuffle(pieces)
    cells, again = stitch(pieces, labels.shape)

    assert same(cells, expected)
    assert again == report


# Real masks


@pytest.fixture(scope="module")
def real_images():
    """Label maps of all sample images, all classes in one, each with the class of every value."""
    images = []
    for folder in sorted(SAMPLE.iterdir()):
        labels, classes = None, [-1]
        for path in sorted(folder.glob("class*.tif")):
            one = tifffile.imread(path).astype(np.int64)
            labels = np.zeros(one.shape, np.int64) if labels is None else labels
            values = np.unique(one[one > 0])
            labels[one > 0] = np.searchsorted(values, one[one > 0]) + len(classes)
            classes += [int(path.stem[5:]) - 1] * len(values)
        images.append((labels, classes))
    return images


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.4, 0.5])
@pytest.mark.parametrize("tile_size", [128, 256, 512])
def test_real_cells_come_once_and_whole(real_images, tile_size, overlap, caplog):
    """Without any overlap two cells that face each other across a seam cannot be told from one that is cut there."""
    undecidable = 3 if (tile_size, overlap) == (128, 0.0) else 0
    count = fused = 0
    for labels, classes in real_images:
        tiles = TileGrid(*labels.shape, tile_size, overlap)
        truth = whole(labels, classes)
        caplog.clear()

        with caplog.at_level("WARNING", "cellseg_d2"):
            cells, report = stitch([(tile, see(labels, tile.window, classes)) for tile in tiles], labels.shape)

        count += len(truth)
        fused += len(truth) - len(cells)
        assert undecidable or cells_of(cells) == cells_of(truth)
        assert report.owned + report.large == len(cells)
        assert ("put together from pieces" in caplog.text) == (report.large > 0)
        if tiles.halo > largest_side(truth) / 2 + TOLERANCE + 1:
            assert report.large == 0
    assert count == 2000
    assert fused == undecidable
