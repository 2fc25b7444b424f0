"""Stitching, cases by hand: seams, corners, large cells, several views of one cell."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from stitching import (
    cells_of,
    grid,
    instances,
    rectangles,
    same,
    stitched,
    whole,
)

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.tiling import Tile, TileGrid
from cellseg_d2.inference.stitch import StitchReport, stitch


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
