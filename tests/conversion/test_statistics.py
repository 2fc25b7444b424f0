"""Statistics of images and datasets, against numbers worked out by hand and, for what is drawn, by brute force."""

import json
import pickle

import numpy as np
import pytest
import tifffile
from drawing import drawn, label_maps, noise, write_sample
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.cells.coco import annotate
from cellseg_d2.cells.label_maps import LabelMap, LayeredCells
from cellseg_d2.cells.tiling import tile_windows
from cellseg_d2.conversion.cut import cut_sample, open_input
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.conversion.statistics import measure_image, summarise
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import PixelRule
from cellseg_d2.images.stated import PixelFormat
from cellseg_d2.images.tiff import INTENSITY_RULE, read_image_with_header

RGB = PixelFormat("uint8", 8, 3)


def measured(name, layers, options, image=None, class_count=2):
    """The statistics of an image with these (class number, label map[, crowd]) layers."""
    layers = [LabelMap((number,), label_map.astype(np.int32), *crowd) for number, label_map, *crowd in layers]
    height, width = layers[0].labels.shape
    windows = tile_windows(height, width, options.tile_size, options.overlap)
    tiles = [(own, annotate(layers, own, options.min_area, options.min_visible)) for own in windows]
    image = np.zeros((height, width, 3), np.uint8) if image is None else image
    return measure_image(name, image, LayeredCells.of(layers), tiles, class_count, RGB)


@pytest.fixture
def two_images():
    """Image a, 8 x 12: cells of 4 x 2 at a tile's inside, 2 x 6 over a seam, a ring; image b, 8 x 8: empty."""
    first, second = np.zeros((8, 12), int), np.zeros((8, 12), int)
    first[0:2, 0:4] = 5  # within the tile (0, 0, 8, 8)
    first[3:5, 5:11] = 9  # over x = 8
    second[3:6, 0:3] = 1
    second[4, 1] = 0  # a ring
    second[7, 0] = second[7, 11] = 2  # two blobs, over the seam
    second[3, 5] = 3  # on a pixel of cell 9 of class 1
    options = ConvertOptions(tile_size=8, min_area=2, min_visible=0.4)
    empty = np.zeros((8, 8), int)
    image = np.ones((8, 8, 3), np.uint8)
    return [measured("a", [(1, first), (2, second)], options), measured("b", [(1, empty)], options, image)], options


def test_numbers_worked_out_by_hand(two_images):
    summary = summarise(*two_images[:1], ["round", "flat"], two_images[1], ["x.tif: is empty"])
    images, cells, tiles, findings = (summary[key] for key in ("images", "cells", "tiles", "findings"))
    assert images["count"] == 2
    assert (images["height"]["min"], images["height"]["max"]) == (8, 8)
    assert (images["width"]["min"], images["width"]["p50"], images["width"]["max"]) == (8, 8, 12)
    assert images["formats"] == [{"dtype": "uint8", "bits": 8, "channels": 3, "images": 2}]
    assert images["duplicates"] == []
    assert (cells["count"], cells["images"]) == (5, 1)
    assert cells["per_image"] == {"min": 0, "p5": 0, "p25": 0, "p50": 0, "p75": 5, "p95": 5, "p99": 5, "max": 5}
    assert (cells["area"]["min"], cells["area"]["p50"], cells["area"]["max"]) == (1, 8, 12)
    assert (cells["longest_side"]["min"], cells["longest_side"]["p50"], cells["longest_side"]["max"]) == (1, 4, 12)
    assert (cells["box_size"]["min"], cells["box_size"]["p50"], cells["box_size"]["max"]) == (1.0, 3.0, 3.5)
    assert {name: own["count"] for name, own in summary["classes"].items()} == {"round": 2, "flat": 3}
    assert (tiles["count"], tiles["with_cells"], tiles["images_of_several"]) == (3, 2, 1)
    assert tiles["cells_cut"] == {"cells": 2, "share": 0.4}  # 9 of round and 2 of flat
    # first tile: 5, 9 (half of it) and the ring; second: the other half of 9; the rest is below min_area
    assert (tiles["instances"]["min"], tiles["instances"]["max"]) == (1, 3)
    assert tiles["classes"]["round"]["tiles"] == 2
    assert (tiles["classes"]["flat"]["tiles"], tiles["classes"]["flat"]["share"]) == (1, 0.5)
    assert findings["several_blobs"] == {"cells": 1, "images": 1, "most_in": ["a"]}
    assert findings["holes"] == {"cells": 1, "images": 1, "most_in": ["a"]}
    assert findings["below_min_area"] == {"cells": 1, "images": 1, "most_in": ["a"]}
    assert findings["shared_by_classes"] == {"pixels": 1, "images": 1, "most_in": ["a"]}
    assert summary["problems"] == ["x.tif: is empty"]
    assert json.loads(json.dumps(summary)) == summary


def test_nothing_at_all_is_summarised():
    summary = summarise([], ["A"], ConvertOptions())
    assert (summary["images"]["count"], summary["cells"]["count"], summary["tiles"]["count"]) == (0, 0, 0)
    assert summary["cells"]["area"] == summary["tiles"]["instances"] == summary["images"]["height"] == {}


def test_crowd_regions_are_no_cells():
    region = np.ones((6, 6), int)
    statistics = measured("a", [(1, np.eye(6, dtype=int)), (2, region, True)], ConvertOptions(min_area=0))
    assert statistics.cells() == {1: 1}
    assert statistics.tile_cells.tolist() == [[1, 0]]
    assert statistics.shared_pixels == 0


def test_layers_of_one_class_share_no_pixels_with_each_other():
    full = np.ones((3, 4), int)
    assert measured("a", [(1, full), (1, full)], ConvertOptions()).shared_pixels == 0
    assert measured("a", [(1, full), (1, full), (2, full)], ConvertOptions()).shared_pixels == 12


def test_images_with_the_same_pixels_are_found():
    rng, cells = np.random.default_rng(0), [(1, np.ones((4, 4), int))]
    first, second = noise(rng, 4, 4), noise(rng, 4, 4)
    pixels = {"a": first, "b": second, "c": first.copy(), "d": second, "e": first[::-1], "f": first}
    images = [measured(name, cells, ConvertOptions(), image) for name, image in pixels.items()]
    duplicates = summarise(images, ["A", "B"], ConvertOptions())["images"]["duplicates"]
    assert duplicates == [["a", "c", "f"], ["b", "d"]]


def test_the_same_values_in_another_shape_are_no_duplicate():
    images = [
        measured(f"{height}", [(1, np.ones((height, 12 // height), int))], ConvertOptions()) for height in (2, 3, 4)
    ]
    assert summarise(images, ["A", "B"], ConvertOptions())["images"]["duplicates"] == []


@pytest.mark.parametrize(
    ("overlap", "cut"),
    [
        pytest.param(0.0, [4, 7], id="both cells that lie over a seam"),
        pytest.param(0.5, [7], id="of 10 and 11 pixels, those that fit into the shared 10"),
    ],
)
def test_a_cell_is_cut_where_no_tile_shows_it_whole(overlap, cut):
    cells = np.zeros((20, 60), int)
    cells[0, 0:20], cells[2, 15:25], cells[4, 40:60], cells[6, 10:31] = 1, 4, 5, 7
    statistics = measured("a", [(1, cells)], ConvertOptions(tile_size=20, overlap=overlap))
    assert [number for number, whole in zip((1, 4, 5, 7), statistics.whole) if not whole] == cut


@drawn
@given(label_maps(), st.integers(1, 12), st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_whole_means_that_some_window_holds_all_of_the_cells_pixels(cells, tile_size, overlap):
    statistics = measured("a", [(1, cells)], ConvertOptions(tile_size=tile_size, overlap=overlap))
    windows = tile_windows(*cells.shape, tile_size, overlap)
    expected = [
        any(np.count_nonzero(cells[y0:y1, x0:x1] == value) == (cells == value).sum() for x0, y0, x1, y1 in windows)
        for value in np.unique(cells[cells > 0])
    ]
    assert statistics.whole.tolist() == expected


@drawn
@given(label_maps(shape=(9, 11)), label_maps(shape=(9, 11)), label_maps(shape=(9, 11)))
def test_shared_pixels_are_those_of_two_classes_or_more(first, second, third):
    layers = [(1, first), (2, second), (3, third)]
    claims = sum((label_map > 0).astype(int) for _, label_map in layers)
    assert measured("a", layers, ConvertOptions(), class_count=3).shared_pixels == np.count_nonzero(claims > 1)


@drawn
@given(st.lists(st.tuples(label_maps(max_side=12), st.integers(1, 2)), min_size=1, max_size=5), st.data())
def test_the_summary_depends_on_no_order(drawings, data):
    options = ConvertOptions(tile_size=5, min_area=2)
    images = [measured(f"{n}", [(number, cells)], options) for n, (cells, number) in enumerate(drawings)]
    shuffled = data.draw(st.permutations(images))
    assert summarise(shuffled, ["A", "B"], options) == summarise(images, ["A", "B"], options)


def test_statistics_travel_between_processes(two_images):
    images, options = two_images
    travelled = pickle.loads(pickle.dumps(images))
    assert summarise(travelled, ["A", "B"], options) == summarise(images, ["A", "B"], options)


@pytest.mark.parametrize(
    ("pixels", "options", "expected"),
    [
        (np.zeros((4, 5), np.uint16), {}, ("uint16", 16, 1)),
        (np.zeros((4, 5, 3), np.uint8), {"photometric": "rgb"}, ("uint8", 8, 3)),
        (np.zeros((4, 4, 5), np.uint8), {"photometric": "rgb", "planarconfig": "separate"}, ("uint8", 8, 4)),
        (np.zeros((4, 5), np.float32), {}, ("float32", 32, 1)),
        (np.zeros((4, 5), bool), {}, ("bool", 1, 1)),
    ],
)
def test_a_pixel_format_is_read_from_the_header(tmp_path, pixels, options, expected):
    tifffile.imwrite(tmp_path / "image.tif", pixels, **options)
    rule = PixelRule(INTENSITY_RULE, ("0",))  # four channels are no RGB image
    assert read_image_with_header(tmp_path / "image.tif", rule)[1] == (expected, None)


def test_pixel_sizes_are_told_where_files_state_them(tmp_path):
    stated = {"resolution": (20_000, 20_000), "resolutionunit": "centimeter"}
    for name, options in (("a", stated), ("b", {}), ("c", stated)):
        write_sample(tmp_path, name, np.zeros((9, 9, 3), np.uint8), {1: np.eye(9, dtype=np.uint8)}, **options)
    given = open_input(tmp_path, ConvertOptions())
    sources, names = given.images, given.class_names
    cut = [cut_sample(source, ConvertOptions(), len(names)).statistics for source in sources]
    assert [one.pixel_size_um for one in cut] == [(0.5, 0.5), None, (0.5, 0.5)]
    sizes = summarise(cut, names, ConvertOptions())["images"]["pixel_size_um"]
    assert (sizes["min"], sizes["p50"], sizes["max"]) == (0.5, 0.5, 0.5)


def test_the_format_of_a_file_that_is_no_tiff_is_one_line(tmp_path):
    (tmp_path / "image.tif").write_bytes(b"no TIFF at all")
    with pytest.raises(CellSegError, match=r"image\.tif: cannot be read as a TIFF"):
        read_image_with_header(tmp_path / "image.tif")
