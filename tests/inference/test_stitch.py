"""Tiled must equal untiled: a stand-in model returns what it can see of the truth in each tile."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.tiling import Tile, TileGrid
from cellseg_d2.inference.stitch import StitchReport, stitch

SAMPLE = Path(__file__).parents[2] / "datasets" / "sample" / "train"
TOLERANCE = 4
relaxed = settings(deadline=None, max_examples=150, derandomize=True)


# The stand-in model and what its answers are compared by


def instances(size, found):
    """CellInstances from (x, y, mask, class, score) rows."""
    boxes = [(x, y, x + mask.shape[1], y + mask.shape[0]) for x, y, mask, _, _ in found]
    return CellInstances(
        size,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([row[4] for row in found], np.float32),
        np.array([row[3] for row in found], np.int64),
        [row[2] for row in found],
        np.array([row[:2] for row in found], np.int64).reshape(-1, 2),
    )


def see(labels, window, classes=None):
    """The cells of a label map that a window shows, each cut to the window, with a score that differs by cell."""
    x0, y0, x1, y1 = window
    part = labels[y0:y1, x0:x1]
    found = []
    for value, box in enumerate(ndimage.find_objects(part), 1):
        if box is not None:
            kind = 0 if classes is None else int(classes[value])
            found.append((x0 + box[1].start, y0 + box[0].start, part[box] == value, kind, 1 / (1 + value)))
    return instances(labels.shape, found)


def jittered(labels, window, random):
    """As ``see``, but every side of each box is off by up to a pixel, by another draw in each tile; for rectangles."""
    height, width = labels.shape
    x0, y0, x1, y1 = window
    found = []
    for value, box in enumerate(ndimage.find_objects(labels), 1):
        left, top, right, bottom = random.integers(-1, 2, 4)
        left, right = max(box[1].start + left, x0, 0), min(box[1].stop + right, x1, width)
        top, bottom = max(box[0].start + top, y0, 0), min(box[0].stop + bottom, y1, height)
        if left < right and top < bottom and (labels[y0:y1, x0:x1] == value).any():
            found.append((left, top, np.ones((bottom - top, right - left), bool), 0, random.random()))
    return instances(labels.shape, found)


def grid(labels, core, halo):
    """Tiles with cores of ``core`` pixels and a halo around each, unless one tile holds the image."""
    tile_size = core + 2 * halo
    tiles = TileGrid(*labels.shape, tile_size, 2 * halo / tile_size)
    assert len(tiles) == 1 or tiles.halo == halo
    return tiles


def cells_of(cells):
    """The cells as a multiset of (place, shape, pixels, class, score)."""
    return Counter(
        (*origin, *mask.shape, mask.tobytes(), kind, score)
        for origin, mask, kind, score in zip(
            cells.origins.tolist(), cells.masks, cells.classes.tolist(), cells.scores.tolist()
        )
    )


def whole(labels, classes=None):
    return see(labels, (0, 0, labels.shape[1], labels.shape[0]), classes)


def largest_side(cells):
    return max((max(mask.shape) for mask in cells.masks), default=0)


def same(first, second):
    """Whether two sets are equal field by field and in order."""
    return (
        all(
            np.array_equal(getattr(first, name), getattr(second, name))
            for name in ("image_size", "boxes", "scores", "classes", "origins")
        )
        and len(first) == len(second)
        and all(np.array_equal(one, other) for one, other in zip(first.masks, second.masks))
    )


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


# Cases by hand


def rectangles(size, *boxes):
    labels = np.zeros(size, np.int32)
    for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
        labels[y0:y1, x0:x1] = number
    return labels


def stitched(labels, core, halo, **options):
    return stitch([(tile, see(labels, tile.window)) for tile in grid(labels, core, halo)], labels.shape, **options)


def test_two_touching_cells_on_a_seam_stay_two():
    labels = rectangles((40, 80), (30, 10, 40, 20), (40, 10, 50, 20), (35, 20, 45, 30), (35, 30, 45, 36))
    cells, report = stitched(labels, core=40, halo=12)
    assert cells_of(cells) == cells_of(whole(labels))
    assert report == StitchReport(owned=4, rejected=2, deduplicated=2, large=0)


def test_a_cell_on_the_corner_of_four_tiles_comes_once():
    labels = rectangles((80, 80), (34, 36, 46, 44))
    cells, report = stitched(labels, core=40, halo=14)
    assert cells_of(cells) == cells_of(whole(labels))
    assert report == StitchReport(owned=1, rejected=0, deduplicated=3, large=0)


def test_cells_at_the_edge_of_the_image_are_whole():
    labels = rectangles((60, 60), (0, 0, 9, 9), (51, 0, 60, 9), (0, 51, 9, 60), (51, 51, 60, 60), (25, 0, 35, 9))
    cells, report = stitched(labels, core=30, halo=11)
    assert cells_of(cells) == cells_of(whole(labels))
    assert report.large == 0


def test_a_large_cell_comes_once_with_a_warning(caplog):
    labels = rectangles((120, 160), (30, 20, 130, 100), (10, 20, 30, 40), (130, 60, 145, 75))
    with caplog.at_level(logging.WARNING, logger="cellseg_d2.inference.stitch"):
        cells, report = stitched(labels, core=40, halo=10)
    assert cells_of(cells) == cells_of(whole(labels))
    assert (report.owned, report.large) == (2, 1)
    (record,) = caplog.records
    assert record.args == (1, 56)  # the largest side is 100 px

    caplog.clear()
    cells, report = stitched(labels, core=20, halo=56)
    assert (len(cells), report.large, caplog.records) == (3, 0, [])


def test_cells_that_touch_where_windows_of_next_but_one_tiles_meet_stay_two():
    labels = rectangles((20, 80), (5, 5, 30, 15), (30, 5, 55, 15))
    assert [tile.window[::2] for tile in grid(labels, core=20, halo=10)][:3:2] == [(0, 30), (30, 70)]
    cells, report = stitched(labels, core=20, halo=10)
    assert cells_of(cells) == cells_of(whole(labels))
    assert report.large == 2


@pytest.mark.parametrize("halo", [5, 20])
def test_a_cell_of_several_blobs_is_one_instance(halo):
    """Its owner sees both blobs where the halo suffices; else the tiles that see both put it together."""
    labels = np.zeros((80, 80), np.int32)
    labels[36:40, 36:40] = labels[44:48, 44:48] = 1
    labels[10:14, 60:64] = labels[20:24, 60:64] = 2
    cells, report = stitched(labels, core=40, halo=halo)
    assert cells_of(cells) == cells_of(whole(labels))
    assert report.owned + report.large == 2


def test_a_large_cell_with_two_classes_comes_once():
    left, right = Tile((0, 0, 20, 20), (0, 0, 24, 20)), Tile((20, 0, 40, 20), (16, 0, 40, 20))
    pieces = [
        (left, instances((20, 40), [(2, 5, np.ones((8, 22), bool), 0, 0.5)])),
        (right, instances((20, 40), [(16, 5, np.ones((8, 10), bool), 1, 0.9)])),
    ]
    cells, report = stitch(pieces, (20, 40))
    assert cells.classes.tolist() == [0]
    assert report == StitchReport(owned=0, rejected=1, deduplicated=0, large=1)


def test_a_cut_view_of_a_kept_cell_is_no_second_cell():
    left, right = Tile((0, 0, 40, 40), (0, 0, 48, 40)), Tile((40, 0, 80, 40), (32, 0, 80, 40))
    kept = instances((40, 80), [(26, 10, np.ones((10, 21), bool), 0, 0.5)])
    cut = instances((40, 80), [(32, 10, np.ones((10, 18), bool), 1, 0.9)])  # its point is in the core of its own tile
    cells, report = stitch([(left, kept), (right, cut)], (40, 80))
    assert same(cells, kept)
    assert report == StitchReport(owned=1, rejected=1, deduplicated=0, large=0)


def test_a_cut_view_of_what_the_owner_saw_whole_and_did_not_report_is_no_cell():
    left, right = Tile((0, 0, 40, 40), (0, 0, 48, 40)), Tile((40, 0, 80, 40), (32, 0, 80, 40))
    cut = instances((40, 80), [(32, 10, np.ones((10, 6), bool), 0, 0.9)])
    cells, report = stitch([(left, CellInstances.empty((40, 80))), (right, cut)], (40, 80))
    assert (len(cells), report.rejected) == (0, 1)


def test_a_bent_cell_larger_than_the_tiles_comes_once():
    labels = np.zeros((100, 100), np.int32)
    labels[10:90, 10:20] = labels[10:20, 10:90] = labels[80:90, 10:90] = 1
    labels[30:70, 30:90] = 2
    cells, report = stitched(labels, core=30, halo=3)
    assert cells_of(cells) == cells_of(whole(labels))
    assert report.large == 2


def test_a_large_cell_has_class_and_score_of_its_largest_piece():
    left, right = Tile((0, 0, 20, 20), (0, 0, 24, 20)), Tile((20, 0, 40, 20), (16, 0, 40, 20))
    pieces = [
        (left, instances((20, 40), [(14, 5, np.ones((8, 10), bool), 3, 0.9)])),
        (right, instances((20, 40), [(16, 5, np.ones((8, 20), bool), 3, 0.4)])),
    ]
    cells, report = stitch(pieces, (20, 40))
    assert cells_of(cells) == cells_of(instances((20, 40), [(14, 5, np.ones((8, 22), bool), 3, np.float32(0.4))]))
    assert cells.boxes.tolist() == [[14, 5, 36, 13]]
    assert report == StitchReport(owned=0, rejected=0, deduplicated=0, large=1)


def test_of_two_views_the_deeper_one_stays_whatever_its_class_and_score():
    left, right = Tile((0, 0, 40, 40), (0, 0, 56, 40)), Tile((40, 0, 80, 40), (24, 0, 80, 40))
    deep = instances((40, 80), [(34, 10, np.ones((10, 10), bool), 0, 0.2)])  # point at x = 39, 17 px from the edge
    shallow = instances((40, 80), [(35, 10, np.ones((10, 9), bool), 1, 0.9)])  # point at x = 39.5, 15.5 px
    cells, report = stitch([(right, shallow), (left, deep)], (40, 80))
    assert same(cells, deep)
    assert report.deduplicated == 1


def test_cells_of_one_tile_are_never_compared():
    tile = Tile((0, 0, 40, 40), (0, 0, 56, 40))
    twice = [(34, 10, np.ones((10, 10), bool), 0, score) for score in (0.9, 0.8)]
    cells, report = stitch([(tile, instances((40, 80), twice))], (40, 80))
    assert (len(cells), report.deduplicated) == (2, 0)


def test_one_tile_passes_everything_unchanged():
    labels = rectangles((30, 40), (0, 0, 10, 10), (20, 15, 40, 30))
    (tile,) = TileGrid(30, 40, 512, 0.25)
    cells, report = stitch([(tile, whole(labels))], labels.shape)
    assert same(cells, whole(labels))
    assert report == StitchReport(owned=2, rejected=0, deduplicated=0, large=0)


@pytest.mark.parametrize("tiles", [[], list(TileGrid(50, 60, 20, 0.5))])
def test_no_tile_and_no_cell(tiles):
    cells, report = stitch([(tile, CellInstances.empty((50, 60))) for tile in tiles], (50, 60))
    assert (len(cells), cells.image_size) == (0, (50, 60))
    assert report == StitchReport(0, 0, 0, 0)


def test_an_empty_mask_is_no_cell():
    (tile,) = TileGrid(10, 10, 10, 0)
    cells, report = stitch([(tile, instances((10, 10), [(2, 2, np.zeros((3, 3), bool), 0, 0.5)]))], (10, 10))
    assert (len(cells), report) == (0, StitchReport(0, 0, 0, 0))


def test_wrong_arguments_are_refused():
    (tile,) = TileGrid(10, 10, 10, 0)
    with pytest.raises(ValueError, match="tolerance"):
        stitch([], (10, 10), tolerance=-1)
    with pytest.raises(ValueError, match="sizes"):
        stitch([(tile, CellInstances.empty((10, 11)))], (10, 10))


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
