"""Folds: each image is validated in one of them, pictures are there once, and classes and patients are dealt evenly."""

import json
import logging
import shutil
from collections import Counter

import numpy as np
import pytest
from converted import assert_shows_window, by_image, load
from detectron2.data import DatasetCatalog, MetadataCatalog
from drawing import discs, drawn, noise, read_folder, write_sample
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.conversion.add import add_images
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.folds import deal_folds
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.data.catalog import register
from cellseg_d2.errors import CellSegError

ids = st.text("abcdef012", min_size=1, max_size=4)
images = st.dictionaries(ids, st.dictionaries(st.integers(1, 4), st.integers(0, 50)), min_size=3, max_size=20)


@drawn
@given(images, st.integers(2, 3), st.integers(0, 5), st.randoms(use_true_random=False))
def test_each_image_is_in_one_fold_whatever_the_order(cells, count, seed, random):
    folds = deal_folds(cells, count, seed)
    assert sorted(name for fold in folds for name in fold) == sorted(cells)
    assert all(fold == sorted(fold) and fold for fold in folds)
    order = list(cells)
    random.shuffle(order)
    assert deal_folds({name: cells[name] for name in order}, count, seed) == folds


@drawn
@given(images, st.integers(2, 3), st.integers(0, 5))
def test_the_rarest_class_is_dealt_evenly(cells, count, seed):
    having = Counter(number for counts in cells.values() for number, cell_count in counts.items() if cell_count)
    if having:
        rarest = min(having, key=lambda number: (having[number], number))
        in_fold = [sum(cells[name].get(rarest, 0) > 0 for name in fold) for fold in deal_folds(cells, count, seed)]
        assert max(in_fold) - min(in_fold) <= 1


@drawn
@given(st.integers(3, 40), st.integers(2, 3), st.integers(0, 5))
def test_images_of_one_kind_make_folds_of_one_size(total, count, seed):
    sizes = [len(fold) for fold in deal_folds({f"s{number}": {1: 3} for number in range(total)}, count, seed)]
    assert max(sizes) - min(sizes) <= 1


@drawn
@given(images, images, st.integers(2, 3), st.integers(0, 5))
def test_images_that_are_fixed_stay_and_the_others_are_dealt(cells, more, count, seed):
    folds = deal_folds(cells, count, seed)
    fixed = {name: place for place, fold in enumerate(folds) for name in fold}
    after = deal_folds(more | cells, count, seed, fixed=fixed)
    assert all(set(fold) <= set(now) for fold, now in zip(folds, after))
    assert sorted(name for fold in after for name in fold) == sorted(more | cells)


def test_images_of_one_patient_are_in_one_fold():
    cells = {f"s{number:02}": {1: 1 + number % 2, 2: number % 3} for number in range(24)}
    groups = {name: f"patient{number // 4}" for number, name in enumerate(cells)}
    folds = deal_folds(cells, 3, 0, groups)
    assert [len(fold) for fold in folds] == [8, 8, 8]
    assert sum(len({groups[name] for name in fold}) for fold in folds) == 6
    with pytest.raises(CellSegError, match="--folds 7: there are 6 images or groups to deal; give fewer folds"):
        deal_folds(cells, 7, 0, groups)


def test_a_class_in_one_image_is_named(caplog):
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        deal_folds({"a": {1: 2}, "b": {1: 1, 2: 1}}, 2, 0)
    assert "class 2 is in one image or group only" in caplog.text


OPTIONS = ConvertOptions(tile_size=32, folds=3, val_fraction=0.3, min_area=0)


def draw(root, names):
    for name in names:
        rng = np.random.default_rng([*name.encode()])
        size = (25, 30) if name.endswith("0") else tuple(rng.integers(40, 80, 2).tolist())
        maps = {1: discs(rng, *size, 9), 2: discs(rng, *size, 2)}
        write_sample(root, name, noise(rng, *size), maps, photometric="rgb")
    return root


@pytest.fixture
def root(tmp_path):
    return draw(tmp_path / "input", [f"s{number}" for number in range(7)])


def test_folds_show_the_images_and_share_their_pictures(root, tmp_path):
    summary = convert(root, tmp_path / "folded", OPTIONS)
    plain = convert(root, tmp_path / "plain", ConvertOptions(tile_size=32, val_fraction=0.3, min_area=0))
    output, names = tmp_path / "folded", {f"s{number}" for number in range(7)}
    assert [set(fold["val"]) for fold in summary["folds"]] == [
        {image["source"] for image in load(output, f"fold{number}_val_whole")["images"]} for number in (1, 2, 3)
    ]
    assert sorted(name for fold in summary["folds"] for name in fold["val"]) == sorted(names)
    for number, fold in enumerate(summary["folds"], start=1):
        shown = {part: by_image(load(output, f"fold{number}_{part}")) for part in ("train", "val", "val_whole")}
        assert {image["source"] for image, _ in shown["train"]} == names - set(fold["val"])
        assert {image["source"] for image, _ in shown["val"]} == set(fold["val"])
        for part, pairs in shown.items():
            for image, annotations in pairs:
                if part == "val_whole":
                    assert_shows_window(root, output, image, annotations)
                assert (output / image["file_name"]).is_file()
        for part in ("train", "val"):
            cells = [cell for _, annotations in shown[part] for cell in annotations]
            assert fold["counts"][part]["tiles"] == len(shown[part])
            assert sum(fold["counts"][part]["tile_instances"].values()) == sum(not cell["iscrowd"] for cell in cells)
    ids = {image["source"]: image["id"] for image in load(output, "whole")["images"]}
    assert list(ids.values()) == list(range(1, 8))
    for number in (1, 2, 3):
        assert all(ids[image["source"]] == image["id"] for image in load(output, f"fold{number}_val_whole")["images"])
    # the parts are those of a conversion without folds, and no picture but the untiled ones is there once more
    without = read_folder(tmp_path / "plain")
    with_folds = read_folder(output)
    assert {name: with_folds[name] for name in without if name != "dataset.json"} == {
        name: content for name, content in without.items() if name != "dataset.json"
    }
    assert summary["images"] == plain["images"]
    assert {name for name in with_folds.keys() - without.keys() if name.endswith(".png")} == {
        f"train_whole/{name}.png" for name in summary["images"]["train"]
    }


def test_folds_are_registered(root, tmp_path):
    summary = convert(root, tmp_path / "folds_here", OPTIONS)
    names = register(tmp_path / "folds_here")
    parts = [f"fold{number}_{part}" for number in (1, 2, 3) for part in ("train", "val", "val_whole")]
    assert names == [f"folds_here_{part}" for part in ("train", "val", "val_whole", *parts)]
    for number, fold in enumerate(summary["folds"], start=1):
        train = f"folds_here_fold{number}_train"
        assert len(DatasetCatalog.get(train)) == MetadataCatalog.get(train).image_count
        assert MetadataCatalog.get(train).most_cells == fold["counts"]["train"]["most_instances_in_a_tile"]
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_images_that_are_added_go_to_folds_and_the_others_stay(root, tmp_path):
    before = convert(root, tmp_path / "cells", OPTIONS)["folds"]
    more = draw(tmp_path / "more", ["t0", "t1", "s3"])
    after = add_images(more, tmp_path / "cells", {})
    assert all(set(old["val"]) <= set(new["val"]) for old, new in zip(before, after["folds"]))
    assert sorted(len(fold["val"]) for fold in after["folds"]) == [3, 3, 3]
    wholes = load(tmp_path / "cells", "whole")["images"]
    assert [image["source"] for image in wholes] == sorted([*(f"s{number}" for number in range(7)), "t0", "t1"])
    assert all((tmp_path / "cells" / image["file_name"]).is_file() for image in wholes)
    content = read_folder(tmp_path / "cells")
    add_images(root, tmp_path / "cells", {"folds": 3})
    assert read_folder(tmp_path / "cells") == content
    with pytest.raises(CellSegError, match=r"--folds 5: .* was converted with 3"):
        add_images(root, tmp_path / "cells", {"folds": 5})


@pytest.mark.parametrize(("folds", "message"), [(1, "at least 2, not 1"), (-3, "not -3"), (8, "there are 7 images")])
def test_a_number_of_folds_that_cannot_be_is_refused(root, tmp_path, folds, message):
    with pytest.raises(CellSegError, match=message):
        convert(root, tmp_path / "out", ConvertOptions(folds=folds))
    assert not (tmp_path / "out").exists()


def test_all_folds_are_there_without_a_validation_part(root, tmp_path):
    summary = convert(root, tmp_path / "out", ConvertOptions(folds=2, val_fraction=0))
    assert summary["images"]["val"] == []
    assert {len(fold["val"]) for fold in summary["folds"]} == {3, 4}
    shutil.rmtree(root)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == summary
