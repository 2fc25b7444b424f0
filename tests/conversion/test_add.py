"""Images that come to a converted dataset: the result is what one conversion of all of them would have written."""

import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawing import discs, noise, read_folder, write_sample, write_test_images

from cellseg_d2.conversion.add import add_images
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError

OPTIONS = ConvertOptions(tile_size=32, overlap=0.25, val_fraction=0.3, class_names=("A", "B"), keep_empty=0.5, seed=1)
FIRST = [f"s{number}" for number in range(6)]
LATER = ["s1", "s4", "t0", "t1", "t2"]


def draw(root, names, seed, ignore=()):
    """Samples of two classes, 8 and 16 bit, one of them smaller than a tile."""
    for name in names:
        rng = np.random.default_rng([seed, *name.encode()])
        size = (20, 25) if name.endswith("0") else tuple(rng.integers(40, 80, 2).tolist())
        image = noise(rng, *size)
        image = image if name.endswith("2") else image.astype(np.uint16) * 9
        folder = write_sample(root, name, image, {1: discs(rng, *size, 9), 2: discs(rng, *size, 2)}, photometric="rgb")
        if name in ignore:
            tifffile.imwrite(folder / "ignore.tif", np.eye(*size, dtype=np.uint8))
    return root


@pytest.fixture
def first(tmp_path):
    """Six images and a test image."""
    root = draw(tmp_path / "first", FIRST, 1, ignore=("s3",))
    write_test_images(root, {"test.tif": noise(np.random.default_rng(0), 20, 30)}, None)
    return root


@pytest.fixture
def later(tmp_path):
    """Two of them with other cells and other pixels, and three new ones."""
    return draw(tmp_path / "later", LATER, 2, ignore=("s1",))


@pytest.fixture
def dataset(first, tmp_path):
    convert(first, tmp_path / "cells", OPTIONS)
    return tmp_path / "cells"


def write_split(path, summary, **options):
    rows = [f"{name},{part}" for part in ("train", "val") for name in summary["images"][part]]
    path.write_text("\n".join(["id,split", *rows]) + "\n")
    return path


@pytest.mark.parametrize("workers", [1, 2])
def test_the_result_is_that_of_one_conversion_of_all_images(first, later, dataset, tmp_path, workers):
    before = json.loads((dataset / "dataset.json").read_text())["images"]
    shutil.copytree(first, tmp_path / "all")
    shutil.copytree(later, tmp_path / "all", dirs_exist_ok=True)
    if workers == 1:
        shutil.rmtree(first)  # it is not needed
    for name in ("s1", "s4"):
        if not (later / "train" / name / "ignore.tif").exists():
            (tmp_path / "all" / "train" / name / "ignore.tif").unlink(missing_ok=True)
    summary = add_images(later, dataset, {}, workers=workers)
    assert all(set(before[part]) <= set(summary["images"][part]) for part in ("train", "val"))
    assert sorted(summary["images"]["train"] + summary["images"]["val"]) == sorted({*FIRST, *LATER})
    assert {name in LATER for name in before["val"]} == {name in LATER for name in before["train"]} == {True, False}
    split = write_split(tmp_path / "split.csv", summary)
    assert convert(tmp_path / "all", tmp_path / "once", OPTIONS, split_file=split) == summary
    assert read_folder(dataset) == read_folder(tmp_path / "once")


def test_a_dask_cluster_changes_no_byte_with_paths_relative_to_here(later, dataset, tmp_path, monkeypatch):
    from distributed import LocalCluster

    shutil.copytree(dataset, tmp_path / "dask" / "cells")
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.ERROR
    ) as cluster:
        monkeypatch.chdir(tmp_path)  # after the workers were started, elsewhere
        add_images(Path("later"), Path("dask/cells"), {}, scheduler=cluster.scheduler_address)
    add_images(later, dataset, {})
    assert read_folder(tmp_path / "dask" / "cells") == read_folder(dataset)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5])
def test_one_image_at_a_time_keeps_the_share_of_validation(tmp_path, fraction):
    options = ConvertOptions(val_fraction=fraction, tile_size=64)
    convert(draw(tmp_path / "in", ["s0", "s1"], 1), tmp_path / "cells", options)
    for number in range(2, 12):
        summary = add_images(draw(tmp_path / f"in{number}", [f"s{number}"], 1), tmp_path / "cells", {})
        count, in_val = number + 1, len(summary["images"]["val"])
        assert abs(in_val - fraction * count) <= 1


def test_pictures_that_stay_are_not_copied(later, dataset):
    kept = {path.relative_to(dataset): path.stat() for path in dataset.rglob("s0*.png")}
    add_images(later, dataset, {})
    now = {path.relative_to(dataset): path.stat() for path in dataset.rglob("s0*.png")}
    assert kept
    assert {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in kept.items()} == {
        name: (stat.st_ino, stat.st_mtime_ns) for name, stat in now.items()
    }


def test_the_same_images_again_change_nothing(first, dataset):
    before = read_folder(dataset)
    add_images(first, dataset, {})
    assert read_folder(dataset) == before


# What contradicts the dataset


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile_size": 512}, r"--tile-size 512: .*cells was converted with 32; leave --tile-size out"),
        ({"overlap": 0.0}, r"--overlap 0.0: .* 0.25"),
        ({"min_visible": 0.5}, r"--min-visible 0.5: .* 0.3;"),
        ({"val_fraction": 0.2}, r"--val-fraction 0.2: .* 0.3;"),
        ({"intensity_rule": "range:0,4095"}, r"--intensity-rule range:0,4095: .* 'percentile"),
        ({"merge_classes": "cell"}, r"--merge-classes cell: .* converted without;"),
        ({"split_blobs": True}, r"--split-blobs True: .* False"),
        ({"class_names": ("A",)}, r"--class-names A: the classes of the dataset are A, B; leave --class-names out"),
        ({"class_names": ("B", "A")}, r"--class-names B A: the classes of the dataset are A, B"),
        ({"class_names": ("A", "C")}, r"--class-names A C: the classes of the dataset are A, B"),
    ],
)
def test_options_that_contradict_the_dataset_are_refused(later, dataset, changes, message):
    before = read_folder(dataset)
    with pytest.raises(CellSegError, match=message):
        add_images(later, dataset, changes)
    assert read_folder(dataset) == before


def test_options_of_the_dataset_may_be_repeated(later, dataset):
    given = {"tile_size": 32, "overlap": 0.25, "class_names": ("A", "B"), "max_pixels": 10_000}
    assert add_images(later, dataset, given)["parameters"]["max_pixels"] == 10_000


def pairs(root, names, classes):
    """Images with a label map per class in a folder of its name."""
    for name in names:
        rng = np.random.default_rng([5, *name.encode()])
        for place in ("images", *(f"masks/{cells}" for cells in classes)):
            (root / place).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / "images" / f"{name}.tif", noise(rng, 30, 40), photometric="rgb")
        for cells in classes:
            tifffile.imwrite(root / "masks" / cells / f"{name}.tif", discs(rng, 30, 40, 4).astype(np.uint16))
    return root


def categories(dataset, name):
    found = set()
    for part in ("train", "val"):
        content = json.loads((dataset / "annotations" / f"instances_{part}.json").read_text())
        ids = {image["id"] for image in content["images"] if image["source"] == name}
        found |= {cell["category_id"] for cell in content["annotations"] if cell["image_id"] in ids}
    return found


def test_classes_are_those_of_the_same_name(dataset, tmp_path):
    add_images(pairs(tmp_path / "b", ["u1"], ["B"]), dataset, {})
    assert categories(dataset, "u1") == {2}
    with pytest.raises(CellSegError, match=r"b2: has the class 'C'; the classes of the dataset are A, B: say which"):
        add_images(pairs(tmp_path / "b2", ["u2"], ["B", "C"]), dataset, {})
    add_images(tmp_path / "b2", dataset, {"class_names": ("B", "A")}, workers=2)
    assert categories(dataset, "u2") == {1, 2}
    for names, message in ((("A",), "has 2 classes"), (("A", "D"), "'D' is none")):
        with pytest.raises(CellSegError, match=message):
            add_images(tmp_path / "b2", dataset, {"class_names": names})


def test_a_third_class_of_label_tiffs_is_refused(dataset, tmp_path):
    write_sample(tmp_path / "in", "v", np.zeros((9, 9), np.uint8), {3: np.eye(9, dtype=np.uint8)})
    with pytest.raises(CellSegError, match="has the class 'class3'"):
        add_images(tmp_path / "in", dataset, {})


def test_merged_classes_stay_merged(first, later, tmp_path):
    convert(first, tmp_path / "cells", ConvertOptions(merge_classes="cell"))
    summary = add_images(later, tmp_path / "cells", {})
    assert summary["class_names"] == ["cell"]
    assert categories(tmp_path / "cells", "t1") == {1}
    with pytest.raises(CellSegError, match="--class-names A B: all classes of the dataset are merged to cell"):
        add_images(later, tmp_path / "cells", {"class_names": ("A", "B")})


# Splits and groups


def test_a_split_file_deals_the_new_images_and_moves_none_of_the_others(later, dataset, tmp_path):
    in_val = json.loads((dataset / "dataset.json").read_text())["images"]["val"]
    path = tmp_path / "split.csv"
    path.write_text(f"id,split\nt0,val\nt1,train\nt2,val\n{in_val[0]},train\n")
    with pytest.raises(CellSegError, match=rf"puts '{in_val[0]}' into train, but the dataset has it in val"):
        add_images(later, dataset, {}, split_file=path)
    path.write_text(f"id,split\nt0,val\nt1,train\n{in_val[0]},val\n")
    with pytest.raises(CellSegError, match="'t2' has no row"):
        add_images(later, dataset, {}, split_file=path)
    path.write_text(f"id,split\nt0,val\nt1,train\nt2,val\n{in_val[0]},val\n")
    summary = add_images(later, dataset, {}, split_file=path)
    assert summary["images"]["val"] == sorted([*in_val, "t0", "t2"])


def test_new_images_of_a_known_patient_follow_it(first, later, tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("id,split,group\n" + "".join(f"s{number},,p{number // 2}\n" for number in range(6)))
    before = convert(first, tmp_path / "cells", OPTIONS, split_file=path)["images"]
    (patient,) = {int(name[1]) // 2 for name in before["val"]}
    path.write_text(f"id,split,group\nt0,,p{patient}\nt1,,p{patient}\nt2,,p{(patient + 1) % 3}\n")
    after = add_images(later, tmp_path / "cells", {}, split_file=path)["images"]
    assert after["val"] == sorted([*before["val"], "t0", "t1"])
    third = draw(tmp_path / "third", ["w0"], 3)
    path.write_text(f"id,split,group\nw0,,p{patient}\n")
    assert "w0" in add_images(third, tmp_path / "cells", {}, split_file=path)["images"]["val"]


# Whole or not at all


def test_after_a_failure_the_dataset_is_as_it_was(later, dataset, tmp_path):
    before = read_folder(dataset)
    (later / "train" / "t1" / "class2.tif").write_bytes(b"")
    with pytest.raises(CellSegError, match=r"t1/class2\.tif: is empty"):
        add_images(later, dataset, {})
    assert read_folder(dataset) == before
    assert not list(tmp_path.glob(".cells.*"))


def test_images_that_cannot_be_read_are_skipped_on_demand_and_come_later(later, dataset, caplog):
    was = {name: content for name, content in read_folder(dataset).items() if "/s4" in name}
    good = {name: (later / "train" / name / "class1.tif").read_bytes() for name in ("s4", "t1")}
    for name in good:
        (later / "train" / name / "class1.tif").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        summary = add_images(later, dataset, {}, skip_errors=True)
    assert summary["skipped"] == ["train/t1/class1.tif: is empty (0 bytes); export it again"]
    assert {name: content for name, content in read_folder(dataset).items() if "/s4" in name} == was
    assert "s4: the dataset keeps what it had" in caplog.text
    for name, content in good.items():
        (later / "train" / name / "class1.tif").write_bytes(content)
    summary = add_images(later, dataset, {})
    assert summary["skipped"] == []
    assert summary["statistics"]["problems"] == []


def test_the_same_pixels_under_another_name_are_refused(first, dataset, tmp_path):
    shutil.copytree(first / "train" / "s2", tmp_path / "in" / "train" / "s2_corrected")
    with pytest.raises(CellSegError, match="s2_corrected: has the pixels of s2, which the dataset has; call it s2"):
        add_images(tmp_path / "in", dataset, {})


def damaged_summary(dataset):
    content = json.loads((dataset / "dataset.json").read_text())
    del content["parameters"]["seed"], content["class_names"]
    (dataset / "dataset.json").write_text(json.dumps(content))


def damaged_statistics(dataset):
    content = json.loads((dataset / "images.json").read_text())
    content["images"][0]["cells"]["area"] = "many"
    (dataset / "images.json").write_text(json.dumps(content))


def other_image(dataset):
    path = dataset / "images.json"
    path.write_text(path.read_text().replace('"id":"s0"', '"id":"z0"'))


def damaged_tiles(dataset):
    path = dataset / "annotations" / "instances_train.json"
    path.write_text(path.read_text().replace('"iscrowd"', '"crowd"'))


def without_wholes(dataset):
    (dataset / "annotations" / "instances_val_whole.json").unlink()


def missing_tile(dataset):
    next(dataset.rglob("s0_y*.png")).unlink()


def outside(dataset):
    path = dataset / "annotations" / "instances_train.json"
    path.write_text(re.sub(r'"file_name":"train/', '"file_name":"../../../', path.read_text()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda dataset: (dataset / "dataset.json").unlink(), "is no converted dataset"),
        (lambda dataset: (dataset / "images.json").unlink(), r"has no images\.json, since an earlier version"),
        (lambda dataset: (dataset / "images.json").write_text("[]"), r"images\.json: is not what `convert` writes"),
        (damaged_summary, r"dataset\.json: is not what `convert` writes"),
        (damaged_statistics, r"images\.json: is not what `convert` writes"),
        (other_image, r"images\.json"),
        (damaged_tiles, r"instances_train\.json: is not what `convert` writes"),
        (without_wholes, r"instances_val_whole\.json: is not what `convert` writes"),
        (missing_tile, "is missing, though the dataset names it"),
    ],
)
def test_a_dataset_that_cannot_be_added_to_is_refused_and_kept(later, dataset, damage, message):
    damage(dataset)
    before = read_folder(dataset)
    with pytest.raises(CellSegError, match=message):
        add_images(later, dataset, {})
    assert read_folder(dataset) == before


def test_a_folder_that_is_not_there_is_not_made(later, tmp_path):
    with pytest.raises(CellSegError, match="is no converted dataset"):
        add_images(later, tmp_path / "typo" / "cells", {})
    assert not (tmp_path / "typo").exists()


def test_names_in_a_dataset_from_elsewhere_lead_nowhere(later, dataset, tmp_path):
    outside(dataset)
    add_images(later, dataset, {})
    assert all(path.is_relative_to(dataset) for path in tmp_path.rglob("*_y*.png"))
