"""Annotations of windows, and the datasets made of them."""

import json
import tracemalloc

import numpy as np
import pytest
from drawing import LARGEST_ID, decode_annotations, drawn, label_maps
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from cellseg_d2.cells.coco import annotate, dataset, to_results, to_xywh, to_xyxy
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.label_maps import LabelMap, LayeredCells
from cellseg_d2.cells.tiling import tile_windows
from cellseg_d2.files import write_json


@st.composite
def images(draw):
    """Label maps of one size, by class."""
    first = draw(label_maps(max_side=30))
    numbers = draw(st.sets(st.integers(1, 9), max_size=2))
    return {3: first} | {number: draw(label_maps(shape=first.shape)) for number in numbers}


def layers_of(maps):
    """One layer per class."""
    return [LabelMap((number,), label_map) for number, label_map in sorted(maps.items())]


def full_window(label_map):
    return 0, 0, label_map.shape[1], label_map.shape[0]


@drawn
@given(images(), st.integers(1, 40), st.floats(0, 0.9), st.floats(0, 1))
def test_a_windows_annotations_decode_to_the_label_maps(maps, tile_size, overlap, min_visible):
    layers = layers_of(maps)
    for window in tile_windows(*maps[3].shape, tile_size, overlap):
        x0, y0, x1, y1 = window
        annotations = annotate(layers, window, min_visible=min_visible)
        decoded = decode_annotations(annotations, (y1 - y0, x1 - x0))
        for number, label_map in maps.items():
            part = label_map[y0:y1, x0:x1]
            assert np.array_equal(decoded.get(number, np.zeros_like(part)), part)
        for annotation in annotations:
            assert annotation["area"] == mask_util.area(annotation["segmentation"])
            assert annotation["bbox"] == mask_util.toBbox(annotation["segmentation"]).tolist()


@drawn
@given(images(), st.integers(1, 40))
def test_label_maps_together_give_the_annotations_of_each_in_turn(maps, tile_size):
    layers = [*layers_of(maps), LabelMap((1, 2), maps[3] // 2, crowd=True)]
    cells = LayeredCells.of(layers)
    assert cells.labels.tolist() == [label for layer in layers for label in layer.cells[0].tolist()]
    assert cells.classes.tolist() == [layer.categories[0] for layer in layers for _ in layer.cells[0]]
    for window in tile_windows(*maps[3].shape, tile_size):
        apart = [annotation for layer in layers for annotation in annotate([layer], window, 2, 0.5)]
        assert annotate(cells, window, 2, 0.5) == annotate(layers, window, 2, 0.5) == apart


def test_an_image_without_label_maps_has_no_annotations():
    assert annotate([], (0, 0, 8, 9)) == []


@drawn
@given(images(), st.integers(1, 40))
def test_the_cells_areas_are_the_sums_over_tiles_that_do_not_overlap(maps, tile_size):
    sums = {}
    for window in tile_windows(*maps[3].shape, tile_size):
        for annotation in annotate(layers_of(maps), window):
            key = annotation["category_id"], annotation["label"]
            sums[key] = sums.get(key, 0) + annotation["area"]
    assert sums == {
        (number, value): np.count_nonzero(label_map == value)
        for number, label_map in maps.items()
        for value in np.unique(label_map[label_map > 0]).tolist()
    }


def test_cells_with_fewer_pixels_than_min_area_are_left_out():
    label_map = np.array([[1, 1, 1, 0, 2, 2, 0, 3]], np.int32)
    areas = [[a["label"] for a in annotate(layers_of({1: label_map}), (0, 0, 8, 1), min_area=n)] for n in range(5)]
    assert areas == [[1, 2, 3], [1, 2, 3], [1, 2], [1], []]


def test_a_cell_that_shows_less_than_min_visible_becomes_crowd():
    label_map = np.zeros((1, 20), np.int32)
    label_map[0, :10], label_map[0, 10:14] = 7, 8
    layers = layers_of({2: label_map})
    for x1, crowd in ((2, 1), (3, 0), (4, 0), (10, 0)):  # of 10 pixels at 0.3: 3 are enough
        (annotation,) = annotate(layers, (0, 0, x1, 1), min_visible=0.3)
        assert (annotation["label"], annotation["area"], annotation["iscrowd"]) == (7, x1, crowd)
    first, second = annotate(layers, (9, 0, 20, 1), min_visible=0.3)
    assert (first["iscrowd"], second["iscrowd"]) == (1, 0)


def test_without_min_visible_nothing_is_crowd():
    layers = layers_of({1: np.ones((4, 9), np.int32)})
    (annotation,) = annotate(layers, (0, 0, 1, 1))
    assert annotation["iscrowd"] == 0


def test_large_ids_cost_no_memory():
    label_map = np.array([[0, 1, LARGEST_ID], [0, 1, LARGEST_ID]], np.int32)
    tracemalloc.start()
    try:
        layers = layers_of({1: label_map})
        first, second = annotate(layers, (0, 0, 3, 1), min_visible=0.6)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert [(a["label"], a["area"], a["iscrowd"]) for a in (first, second)] == [(1, 1, 1), (LARGEST_ID, 1, 1)]


def test_windows_of_one_label_map_share_one_pass_over_its_pixels():
    (layer,) = layers_of({1: np.array([[0, 5, 5], [7, 0, 0]], np.int32)})
    annotate([layer], (0, 0, 2, 2))
    ids, cells = layer.cells
    annotate([layer], (1, 0, 3, 2))
    assert layer.cells[1] is cells
    assert ids.tolist() == [5, 7]


def test_boxes_become_cocos_and_back():
    boxes = np.array([[1.5, 2, 4, 8], [0, 0, 1, 1]])
    assert to_xywh(boxes).tolist() == [[1.5, 2, 2.5, 6], [0, 0, 1, 1]]
    assert to_xyxy(to_xywh(boxes)).tolist() == boxes.tolist()
    assert to_xywh(np.zeros((0, 4))).shape == (0, 4)


def test_results_state_the_boxes_that_are_given():
    rles = [
        annotation["segmentation"] for annotation in annotate(layers_of({1: np.eye(3, dtype=np.int32)}), (0, 0, 3, 3))
    ]
    cells = CellInstances.from_rles(rles, [0], (3, 3), [0.25])
    (tight,), (stated,) = to_results(cells, 4), to_results(cells, 4, np.array([[0.5, 0, 2, 1.25]]))
    assert (tight["bbox"], stated["bbox"]) == ([0, 0, 3, 3], [0.5, 0, 2, 1.25])
    assert {**stated, "bbox": tight["bbox"]} == tight


def test_datasets_number_images_and_annotations_from_1():
    cell = {"category_id": 1, "area": 4}
    images = [{"file_name": name} for name in "abc"]
    content = dataset(images, [[cell, cell], [], [cell]], ["x", "y"])
    assert [(image["id"], image["file_name"]) for image in content["images"]] == [(1, "a"), (2, "b"), (3, "c")]
    assert [(own["id"], own["image_id"]) for own in content["annotations"]] == [(1, 1), (2, 1), (3, 3)]
    assert content["categories"] == [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}]


def test_images_with_ids_keep_them():
    content = dataset([{"id": 30, "file_name": "a"}, {"id": 7, "file_name": "b"}], None, ["x"])
    assert [image["id"] for image in content["images"]] == [30, 7]
    assert "annotations" not in content


@pytest.mark.parametrize("indent", [None, 1])
def test_json_is_written_as_utf_8(tmp_path, indent):
    content = {"names": ["Zelle µ", "細胞"], "cells": [1, 2.5]}
    write_json(tmp_path / "new" / "file.json", content, indent)
    assert json.loads((tmp_path / "new" / "file.json").read_text(encoding="utf-8")) == content
