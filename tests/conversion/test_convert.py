"""Conversion: exact to the pixel, and the same however it is run."""

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from converted import assert_shows_window, by_image, load, read_png, truth
from drawing import (
    LARGEST_ID,
    discs,
    label_maps,
    noise,
    read_folder,
    write_sample,
    write_test_images,
    written,
)
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import read_image

EXACT = {"min_area": 0, "keep_empty": 1.0}
SIZES = [(40, 60), (64, 64), (17, 90), (33, 33), (70, 20), (64, 65), (9, 7), (50, 51)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Eight drawn samples of many sizes: class 1 nearly everywhere, 2 rare, 3 in one image; one has no cell."""
    root, rng = tmp_path_factory.mktemp("input"), np.random.default_rng(5)
    for number, size in enumerate(SIZES):
        maps = {1: discs(rng, *size, 12)} if number != 6 else {}
        if number in (2, 4):
            maps[2] = discs(rng, *size, 2)
        if number == 1:
            maps[3] = np.where(discs(rng, *size, 5) > 0, LARGEST_ID, 0).astype(np.int32)
        write_sample(root, f"s{number}", noise(rng, *size), maps, photometric="rgb")
    images = {f"t{number}.tif": noise(rng, 20 + number, 30) for number in range(3)}
    ids = [{"file_name": f"t{n}.tif", "id": 50 - n, "height": 20 + n, "width": 30} for n in range(3)]
    write_test_images(root, images, ids)
    return root


# Exactness


@written
@given(
    st.lists(label_maps(max_side=40), min_size=1, max_size=2),
    st.integers(1, 50),
    st.floats(0, 0.8),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.5]),
)
def test_what_is_converted_decodes_to_the_label_maps(
    tmp_path_factory, drawn_maps, tile_size, overlap, min_visible, val_fraction
):
    folder = tmp_path_factory.mktemp("drawn")
    root, output = folder / "input", folder / "output"
    for number, label_map in enumerate(drawn_maps):
        image = noise(np.random.default_rng(number), *label_map.shape)
        write_sample(root, f"s{number}", image, {1: label_map, 2: label_map[::-1].copy()}, photometric="rgb")
    options = ConvertOptions(
        tile_size=tile_size, overlap=overlap, min_visible=min_visible, val_fraction=val_fraction, **EXACT
    )
    summary = convert(root, output, options)
    seen = {f"s{number}": np.zeros(label_map.shape, int) for number, label_map in enumerate(drawn_maps)}
    for part in summary["counts"]:
        for image, annotations in by_image(load(output, part)):
            assert_shows_window(root, output, image, annotations)
            assert image["source"] in summary["images"][part]
            x0, y0, x1, y1 = image["window"]
            seen[image["source"]][y0:y1, x0:x1] += 1
    assert all(count.min() >= 1 for count in seen.values())
    assert ("val" in summary["counts"]) == bool(summary["images"]["val"])
    if summary["images"]["val"]:
        wholes = by_image(load(output, "val_whole"))
        assert [image["source"] for image, _ in wholes] == summary["images"]["val"]
        for image, annotations in wholes:
            assert_shows_window(root, output, image, annotations)
    shutil.rmtree(folder)


def test_tiles_without_overlap_give_back_every_cells_area(root, tmp_path):
    convert(root, tmp_path / "out", ConvertOptions(tile_size=16, val_fraction=0, **EXACT))
    sums: dict[tuple, int] = {}
    for image, annotations in by_image(load(tmp_path / "out", "train")):
        for annotation in annotations:
            key = image["source"], annotation["category_id"], annotation["label"]
            sums[key] = sums.get(key, 0) + annotation["area"]
    expected = {}
    for number in range(len(SIZES)):
        for category, label_map in truth(root, f"s{number}")[1].items():
            ids, areas = np.unique(label_map[label_map > 0], return_counts=True)
            expected |= {(f"s{number}", category, value): area for value, area in zip(ids.tolist(), areas.tolist())}
    assert sums == expected


def test_the_untiled_validation_images_keep_every_cell(root, tmp_path):
    options = ConvertOptions(tile_size=16, val_fraction=0.5, min_area=1000, min_visible=1.0, keep_empty=1.0)
    summary = convert(root, tmp_path / "out", options)
    wholes = by_image(load(tmp_path / "out", "val_whole"))
    assert [image["source"] for image, _ in wholes] == summary["images"]["val"]
    for image, annotations in wholes:
        assert_shows_window(root, tmp_path / "out", image, annotations)
        assert not any(annotation["iscrowd"] for annotation in annotations)
    assert load(tmp_path / "out", "val")["annotations"] == []


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_intensities_are_scaled_by_image_and_not_by_tile(tmp_path, kind):
    image = (np.arange(30 * 40).reshape(30, 40) * 20).astype(kind)
    write_sample(tmp_path / "in", "a", image, {1: np.ones((30, 40), np.uint8)})
    convert(tmp_path / "in", tmp_path / "out", ConvertOptions(tile_size=16, min_visible=0))
    tiles = by_image(load(tmp_path / "out", "train"))
    assert len(tiles) == 6
    for record, annotations in tiles:
        assert_shows_window(tmp_path / "in", tmp_path / "out", record, annotations)


# The rules for annotations and empty tiles


def test_small_and_cut_cells(tmp_path):
    label_map = np.zeros((16, 64), np.int32)
    label_map[0:4, 0:3] = 1  # 12 pixels, whole
    label_map[8:11, 0:3] = 2  # 9 pixels: under min_area
    label_map[0:8, 30:50] = 3  # 16 of 160 pixels in the first tile: under min_visible there
    write_sample(tmp_path / "in", "a", np.zeros((16, 64), np.uint8), {1: label_map})
    summary = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(tile_size=32, val_fraction=0))
    found = [
        [(own["label"], own["area"], own["iscrowd"]) for own in annotations]
        for _, annotations in by_image(load(tmp_path / "out", "train"))
    ]
    assert found == [[(1, 12, 0), (3, 16, 1)], [(3, 144, 0)]]
    assert summary["counts"]["train"] == {
        "images": 1,
        "cells": {"class1": 3},
        "tiles": 2,
        "empty_tiles": 0,
        "tile_instances": {"class1": 2},
        "tile_crowds": 1,
        "most_instances_in_a_tile": 1,
    }


def test_ignore_regions_are_no_cells_of_the_densest_tile(tmp_path):
    """Each of the 60 regions is annotated with both classes; three cells are in the tile."""
    cells, other, regions = np.zeros((3, 64, 64), np.int32)
    cells[0:8, 0:8], cells[0:8, 20:28], other[0:8, 40:48] = 1, 2, 1
    for number in range(60):
        y, x = divmod(number, 12)
        regions[20 + 8 * y : 26 + 8 * y, 5 * x : 5 * x + 4] = number + 1
    write_sample(tmp_path / "in", "a", np.zeros((64, 64), np.uint8), {1: cells, 2: other})
    tifffile.imwrite(tmp_path / "in" / "train" / "a" / "ignore.tif", regions)
    train = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0))["counts"]["train"]
    assert train["tile_crowds"] == 2 * 60
    assert train["most_instances_in_a_tile"] == 3


def test_tiles_without_cells_are_dropped_or_kept_in_a_seeded_share(tmp_path):
    write_sample(tmp_path / "in", "a", np.zeros((320, 320), np.uint8), {1: np.eye(320, dtype=np.uint8)})

    def kept(name, share, seed=42):
        options = ConvertOptions(tile_size=16, val_fraction=0, min_area=1, min_visible=0, keep_empty=share, seed=seed)
        summary = convert(tmp_path / "in", tmp_path / name, options)
        assert summary["counts"]["train"]["empty_tiles"] == 380
        images = load(tmp_path / name, "train")["images"]
        assert len(list((tmp_path / name / "train").iterdir())) == len(images)
        return {tuple(image["window"]) for image in images if image["window"][0] != image["window"][1]}

    none, few, many, every = (kept(f"share{share}", share) for share in (0.0, 0.25, 0.75, 1.0))
    assert none == set()
    assert none < few < many < every
    assert len(every) == 380
    assert abs(len(few) - 95) < 40
    assert abs(len(many) - 285) < 40
    assert kept("again", 0.25) == few
    assert kept("seed", 0.25, seed=1) != few


# Layout and interoperation


@pytest.fixture(scope="module")
def converted(root, tmp_path_factory):
    output = tmp_path_factory.mktemp("converted") / "cells"
    summary = convert(root, output, ConvertOptions(tile_size=32, overlap=0.25, class_names=("A", "B", "C", "D")))
    return output, summary


def test_every_json_loads_in_plain_pycocotools(converted, capsys):
    output, _ = converted
    for path in sorted((output / "annotations").iterdir()):
        coco = COCO(str(path))
        assert coco.getCatIds() == [1, 2, 3, 4]
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["A", "B", "C", "D"]
        assert len(coco.getImgIds()) == len(set(coco.getImgIds())) > 0
        for annotation in coco.dataset.get("annotations", []):
            image = coco.loadImgs(annotation["image_id"])[0]
            mask = coco.annToMask(annotation)
            assert mask.shape == (image["height"], image["width"])
            assert mask.sum() == annotation["area"]
            assert mask_util.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]


def test_file_names_are_relative_and_each_file_is_named_once(converted):
    output, _ = converted
    named = []
    for path in sorted((output / "annotations").iterdir()):
        for image in json.loads(path.read_text())["images"]:
            assert read_png(output / image["file_name"]).shape == (image["height"], image["width"], 3)
            named.append(image["file_name"])
    assert len(named) == len(set(named))
    others = {f"annotations/{path.name}" for path in (output / "annotations").iterdir()}
    others |= {"dataset.json", "images.json"}
    assert set(read_folder(output)) == set(named) | others


def test_the_summary_is_dataset_json_and_tells_what_is_there(root, converted):
    output, summary = converted
    text = (output / "dataset.json").read_text()
    assert json.loads(text) == summary
    assert str(root) not in text
    assert str(output) not in text
    assert summary["class_names"] == ["A", "B", "C", "D"]
    assert summary["parameters"]["tile_size"] == 32
    assert summary["parameters"]["overlap"] == 0.25
    assert summary["intensity_rule"] == summary["parameters"]["intensity_rule"]
    assert sorted(summary["images"]["train"] + summary["images"]["val"]) == [f"s{n}" for n in range(len(SIZES))]
    for part in ("train", "val"):
        counts, dataset = summary["counts"][part], load(output, part)
        assert counts["images"] == len(summary["images"][part])
        assert counts["tiles"] == len(dataset["images"])
        assert {image["source"] for image in dataset["images"]} <= set(summary["images"][part])
        assert counts["tile_crowds"] == sum(own["iscrowd"] for own in dataset["annotations"])
        assert sum(counts["tile_instances"].values()) + counts["tile_crowds"] == len(dataset["annotations"])
    cells = {name: sum(summary["counts"][part]["cells"][name] for part in ("train", "val")) for name in "ABCD"}
    maps = [truth(root, f"s{number}")[1] for number in range(len(SIZES))]
    for number, name in enumerate("ABCD", start=1):
        assert cells[name] == sum(len(np.unique(own[number][own[number] > 0])) for own in maps if number in own)


def test_rare_classes_are_in_both_parts_and_a_class_of_one_image_in_training(converted):
    _, summary = converted
    train, val = (summary["counts"][part]["cells"] for part in ("train", "val"))
    assert min(train["A"], train["B"], train["C"], val["A"], val["B"]) > 0
    assert val["C"] == 0


def test_test_images_have_the_ids_of_the_id_file(root, converted):
    output, summary = converted
    info = json.loads((output / "annotations" / "image_info_test.json").read_text())
    assert "annotations" not in info
    assert [(image["id"], image["file_name"]) for image in info["images"]] == [
        (50, "test/t0.png"),
        (49, "test/t1.png"),
        (48, "test/t2.png"),
    ]
    assert summary["counts"]["test"] == {"images": 3}
    for image in info["images"]:
        expected = read_image(root / "test_release" / image["source"])
        assert np.array_equal(read_png(output / image["file_name"]), expected)


def test_class_names_are_numbered_where_none_are_given(small_root, tmp_path):
    write_sample(small_root, "c", np.zeros((9, 9), np.uint8), {3: np.eye(9, dtype=np.uint8)})
    assert convert(small_root, tmp_path / "out", ConvertOptions())["class_names"] == ["class1", "class2", "class3"]


def test_without_a_validation_part_there_are_no_files_of_it(small_root, tmp_path):
    summary = convert(small_root, tmp_path / "out", ConvertOptions(val_fraction=0))
    assert set(summary["counts"]) == {"train"}
    assert summary["images"] == {"train": ["a", "b"], "val": []}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "annotations",
        "dataset.json",
        "images.json",
        "train",
    }
    assert [path.name for path in (tmp_path / "out" / "annotations").iterdir()] == ["instances_train.json"]


# The same bytes however it is run


def test_workers_and_a_second_run_change_no_byte(root, converted, tmp_path):
    output, _ = converted
    options = ConvertOptions(tile_size=32, overlap=0.25, class_names=("A", "B", "C", "D"))
    expected = read_folder(output)
    convert(root, tmp_path / "two", options, workers=2)
    assert read_folder(tmp_path / "two") == expected
    convert(root, tmp_path / "two", options, workers=1, overwrite=True)
    assert read_folder(tmp_path / "two") == expected


def test_a_dask_cluster_changes_no_byte_with_paths_relative_to_here(root, converted, tmp_path, monkeypatch):
    from distributed import LocalCluster

    output, _ = converted
    options = ConvertOptions(tile_size=32, overlap=0.25, class_names=("A", "B", "C", "D"))
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.ERROR
    ) as cluster:
        monkeypatch.chdir(root.parent)  # after the workers were started, elsewhere
        here = Path(os.path.relpath(root)), Path(os.path.relpath(tmp_path / "dask"))
        convert(*here, options, scheduler=cluster.scheduler_address)
        report = check(here[0], options, scheduler=cluster.scheduler_address)
        assert report == check(here[0], options)
        (root_copy := tmp_path / "damaged").mkdir()
        shutil.copytree(root / "train", root_copy / "train")
        (root_copy / "train" / "s3" / "image.tif").write_bytes(b"II*\0")
        with pytest.raises(CellSegError, match=r"train/s3/image\.tif: cannot be read as a TIFF"):
            convert(root_copy, tmp_path / "none", options, scheduler=cluster.scheduler_address)
    assert read_folder(tmp_path / "dask") == read_folder(output)
    assert report.root == here[0]
    assert not (tmp_path / "none").exists()
