"""The encoding in one pass against pycocotools, cell by cell."""

import numpy as np
import pytest
from drawing import LARGEST_ID, drawn, label_maps, overlapping_masks, pycocotools_rle
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from cellseg_d2.cells.rle import CROPS_AT_ONCE, Runs, column_runs, decode_runs, paint

LABEL_MAPS = [
    pytest.param(np.zeros((4, 6), np.int32), id="no cell"),
    pytest.param(np.full((9, 5), 3, np.int32), id="one cell that fills the frame"),
    pytest.param(np.array([[1]], np.uint8), id="a frame of one pixel"),
    pytest.param(np.eye(7, dtype=np.int32) * np.arange(1, 8, dtype=np.int32), id="one-pixel cells"),
    pytest.param(np.eye(6, dtype=np.int32), id="a cell whose pixels touch at corners only"),
    pytest.param(np.array([[0, 65_536], [65_537, LARGEST_ID]], np.int32), id="ids beyond 16 bit"),
    pytest.param(np.array([[0, 2**32 - 1], [2**31, 2**31]], np.uint32), id="ids beyond int32"),
    pytest.param(np.array([[0, 2**40], [5, 5]], np.int64), id="ids beyond 32 bit"),
    pytest.param(np.array([[True, False, True]]), id="bool"),
    pytest.param(np.arange(1, 301, dtype=np.uint16).reshape(15, 20), id="every pixel a cell"),
    pytest.param(np.asfortranarray(np.arange(12, dtype=np.int32).reshape(3, 4) // 3), id="column-major memory"),
    pytest.param((np.arange(400, dtype=np.int32).reshape(20, 20) // 7)[3::2, ::-3], id="a view with strides"),
    pytest.param(np.repeat(np.arange(3, dtype=np.int32), 2000).reshape(3, 2000), id="runs of many digits"),
]


def assert_equals_pycocotools(label_map):
    ids, cells = column_runs(label_map)
    rles = cells.rles()
    assert ids.tolist() == [value for value in np.unique(label_map) if value != 0]
    assert len(cells) == len(rles) == len(ids)
    for number, value in enumerate(ids):
        expected = pycocotools_rle(label_map == value)
        assert rles[number] == expected
        assert cells.areas[number] == mask_util.area(expected)
        x, y, width, height = mask_util.toBbox(expected)
        assert cells.boxes[number].tolist() == [x, y, x + width, y + height]


@pytest.mark.parametrize("label_map", LABEL_MAPS)
def test_each_cell_is_encoded_as_pycocotools_does(label_map):
    assert_equals_pycocotools(label_map)


@drawn
@given(label_maps())
def test_each_drawn_cell_is_encoded_as_pycocotools_does(label_map):
    assert_equals_pycocotools(label_map)


@drawn
@given(label_maps())
def test_painting_gives_back_the_label_map(label_map):
    ids, cells = column_runs(label_map)
    layers, layer_of = paint(cells.rles(), label_map.shape)
    assert layers.dtype == np.int32
    assert layers.shape == (1, *label_map.shape)
    assert layer_of.tolist() == [0] * len(ids)
    assert np.array_equal(np.append(0, ids)[layers[0]], label_map)


@drawn
@given(overlapping_masks())
def test_overlapping_cells_lie_in_layers_and_lose_no_pixel(masks):
    size = masks[0].shape if masks else (3, 4)
    layers, layer_of = paint([pycocotools_rle(mask) for mask in masks], size)
    assert len(layers) >= 1
    assert len(layer_of) == len(masks)
    for number, mask in enumerate(masks):
        assert np.array_equal(layers[layer_of[number]] == number + 1, mask)
        assert not (np.delete(layers, layer_of[number], axis=0) == number + 1).any()
        for earlier in range(number):
            if (masks[earlier] & mask).any():
                assert layer_of[earlier] < layer_of[number]


def test_cells_that_do_not_overlap_share_a_layer():
    left, right, across = (np.zeros((4, 6), bool) for _ in range(3))
    left[:, :3], right[:, 3:], across[1:3, 1:5] = True, True, True
    _, layer_of = paint([pycocotools_rle(mask) for mask in (left, right, across)], (4, 6))
    assert layer_of.tolist() == [0, 0, 1]


def test_equal_cells_lie_one_a_layer():
    rle = pycocotools_rle(np.ones((2, 3), bool))
    layers, layer_of = paint([rle] * 3, (2, 3))
    assert layer_of.tolist() == [0, 1, 2]
    assert [layer.tolist() for layer in layers] == [[[number] * 3] * 2 for number in (1, 2, 3)]


def test_nothing_to_paint_is_one_empty_layer():
    layers, layer_of = paint([], (3, 4))
    assert layers.shape == (1, 3, 4)
    assert not layers.any()
    assert layer_of.shape == (0,)


def test_a_cell_without_a_pixel_hides_nothing():
    empty, full = pycocotools_rle(np.zeros((2, 3), bool)), pycocotools_rle(np.ones((2, 3), bool))
    layers, layer_of = paint([empty, full, empty], (2, 3))
    assert layers.tolist() == [[[2] * 3] * 2]
    assert layer_of.tolist() == [0, 0, 0]


@drawn
@given(overlapping_masks(), st.data())
def test_encoding_crops_equals_encoding_full_frames(masks, data):
    size = masks[0].shape if masks else (3, 4)
    crops, origins = [], []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        # A crop may be wider than its cell.
        y0, x0 = data.draw(st.integers(0, int(rows[0]))), data.draw(st.integers(0, int(columns[0])))
        y1, x1 = data.draw(st.integers(rows[-1] + 1, size[0])), data.draw(st.integers(columns[-1] + 1, size[1]))
        crops.append(mask[y0:y1, x0:x1])
        origins.append((x0, y0))
    runs = Runs.from_crops(crops, np.array(origins, np.int64).reshape(-1, 2), size)
    assert runs.rles() == [pycocotools_rle(mask) for mask in masks]
    for mask, crop, (x0, y0, x1, y1) in zip(masks, runs.crops(), runs.boxes.tolist(), strict=True):
        assert np.array_equal(crop, mask[y0:y1, x0:x1])
        assert np.count_nonzero(crop) == np.count_nonzero(mask)


def test_many_crops_are_encoded_part_by_part():
    count = 2 * CROPS_AT_ONCE + 1
    origins = np.stack([np.arange(count), np.arange(count) % 3], axis=1)
    runs = Runs.from_crops([np.ones((2, 1), bool)] * count, origins, (4, count))
    assert runs.boxes.tolist() == np.hstack([origins, origins + np.array([1, 2])]).tolist()
    assert len(Runs.from_crops([], np.zeros((0, 2), np.int64), (4, 5))) == 0


def test_a_window_of_all_shows_all_cells_that_have_a_pixel():
    full = column_runs(np.array([[1, 2], [1, 0]], np.int32))[1]
    shown, numbers = full.crop((0, 0, 2, 2))
    assert shown is full and numbers.tolist() == [0, 1]
    runs = Runs.from_crops([np.ones((1, 1), bool), np.zeros((1, 1), bool)], np.zeros((2, 2), np.int64), (3, 2))
    shown, numbers = runs.crop((0, 0, 2, 3))
    assert (len(shown), numbers.tolist()) == (1, [0])


def test_a_crop_without_a_pixel_is_encoded_as_an_empty_mask():
    crops = [np.ones((1, 1), bool), np.zeros((2, 2), bool), np.ones((1, 2), bool)]
    runs = Runs.from_crops(crops, np.array([[0, 0], [1, 1], [2, 3]]), (5, 4))
    first, empty, last = runs.rles()
    assert empty == pycocotools_rle(np.zeros((5, 4), bool))
    assert mask_util.area([first, last]).tolist() == [1, 2]
    assert [crop.shape for crop in runs.crops()] == [(1, 1), (0, 0), (1, 2)]


@drawn
@given(overlapping_masks(min_count=1))
def test_decoding_and_encoding_gives_back_the_text(masks):
    rles = [pycocotools_rle(mask) for mask in masks]
    runs = decode_runs(rles, masks[0].shape)
    assert runs.rles() == rles
    assert runs.areas.tolist() == [np.count_nonzero(mask) for mask in masks]


@drawn
@given(overlapping_masks(min_count=1), st.data())
def test_picked_cells_are_those_asked_for_in_that_order(masks, data):
    numbers = data.draw(st.lists(st.integers(0, len(masks) - 1), unique=True))
    rles = [pycocotools_rle(mask) for mask in masks]
    picked = decode_runs(rles, masks[0].shape).pick(np.array(numbers, np.int64))
    assert len(picked) == len(numbers)
    assert picked.rles() == [rles[number] for number in numbers]


@pytest.mark.parametrize(
    ("polygon", "size"),
    [
        pytest.param([1.0, 1.0, 8.0, 1.0, 8.0, 6.0], (9, 12), id="triangle"),
        pytest.param([0.0, 0.0, 12.0, 0.0, 12.0, 9.0, 0.0, 9.0], (9, 12), id="whole frame"),
        pytest.param([2.2, 0.0, 5.7, 0.0, 5.7, 9.0, 2.2, 9.0], (9, 12), id="whole columns, with runs of length zero"),
    ],
)
def test_texts_that_others_write_are_decoded(polygon, size):
    rle = mask_util.frPyObjects([polygon], *size)[0]
    layers, _ = paint([rle], size)  # counts as bytes, as pycocotools gives them
    assert np.array_equal(layers[0], mask_util.decode(rle))


GOOD = pycocotools_rle(np.eye(4, 5, dtype=bool))


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        pytest.param({"size": [5, 4], "counts": GOOD["counts"]}, "expected a compressed RLE of size", id="other size"),
        pytest.param({"size": [4, 5], "counts": [0, 20]}, "expected a compressed RLE", id="uncompressed"),
        pytest.param(pycocotools_rle(np.ones((4, 4), bool)) | {"size": [4, 5]}, "fills 16, not the 20", id="too short"),
        pytest.param(pycocotools_rle(np.ones((4, 6), bool)) | {"size": [4, 5]}, "does not fit into", id="too long"),
        pytest.param({"size": [4, 5], "counts": ""}, "is empty", id="no text"),
        pytest.param({"size": [4, 5], "counts": GOOD["counts"][:-1] + "P"}, "in the middle of a number", id="cut off"),
        pytest.param({"size": [4, 5], "counts": "8N>"}, "does not fit into the 20 pixels", id="negative run"),
        pytest.param({"size": [4, 5], "counts": "8 <"}, "a character that no RLE has", id="space"),
        pytest.param({"size": [4, 5], "counts": "4€"}, "a character that no RLE has", id="not ASCII"),
        pytest.param({"size": [4, 5], "counts": GOOD["counts"] * 2}, "does not fit into the 20 pixels", id="doubled"),
        pytest.param(
            {"size": [4, 5], "counts": "P" * 40 + "0"}, "does not fit into the 20 pixels", id="endless number"
        ),
    ],
)
def test_damaged_rles_are_refused_wherever_they_stand(rle, message):
    for rles in ([rle], [GOOD, rle], [rle, GOOD], [GOOD, rle, GOOD]):
        with pytest.raises(ValueError, match=message):
            decode_runs(rles, (4, 5))
