"""tools/convert_tifs.py as a user runs it: a process, its exit code and what it prints."""

import json
import os
import shutil

import faster_coco_eval
import numpy as np
import pytest
import tifffile
from drawing import read_folder, write_sample
from pycocotools.coco import COCO

import cellseg_d2

CONTRACT = [
    *("--input", "--output", "--tile-size", "--overlap", "--val-fraction", "--seed", "--class-names", "--min-area"),
    *("--min-visible", "--keep-empty", "--workers", "--scheduler", "--overwrite", "--on-error"),
    *("--add-to", "--folds", "--intensity-rule", "--split-blobs", "--split", "--from-coco", "--max-pixels"),
]


def assert_one_line(process, *parts):
    """Bad input: exit code 2, and on stderr one line that says what is wrong."""
    assert process.returncode == 2
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert str(part) in line


def test_help_shows_the_contract(run_tool):
    process = run_tool("convert_tifs", "--help")
    assert (process.returncode, process.stderr) == (0, "")
    text = " ".join(process.stdout.split())
    for option in CONTRACT:
        assert f" {option} " in text
    assert "{stop,skip}" in text
    for default in ("512", "0.0", "0.2", "42", "10", "0.3"):
        assert f"(default: {default})" in text


def test_the_sample_is_converted(run_tool, sample_root, tmp_path):
    output = tmp_path / "datasets" / "cells"
    process = run_tool("convert_tifs", "--input", sample_root, "--output", output, "--tile-size", 256)
    assert process.returncode == 0, process.stderr
    assert "error" not in process.stderr
    train, val, test, dataset = process.stdout.splitlines()
    summary = json.loads((output / "dataset.json").read_text())
    counts = summary["counts"]
    assert train.startswith(f"train: {counts['train']['images']} images, {counts['train']['tiles']} tiles: ")
    assert val.startswith(f"val: {counts['val']['images']} images, {counts['val']['tiles']} tiles: ")
    assert (test, dataset) == ("test: 25 images", f"dataset: {output}")
    assert counts["train"]["images"] + counts["val"]["images"] == 60
    assert abs(counts["val"]["images"] - 12) <= 3
    assert all(counts[part]["cells"][name] > 0 for part in ("train", "val") for name in summary["class_names"])
    for name in ("instances_train", "instances_val", "instances_val_whole", "image_info_test"):
        assert len(COCO(str(output / "annotations" / f"{name}.json")).getImgIds()) > 0
    assert os.listdir(tmp_path / "datasets") == ["cells"]


def test_options_arrive(convert_tifs, tmp_path):
    options = "--tile-size 16 --overlap 0.25 --val-fraction 0.4 --seed 7 --class-names round flat --min-area 3"
    options += " --min-visible 0.5 --keep-empty 0.75 --intensity-rule range:0,255 --split-blobs"
    options += " --max-pixels 4000 --folds 2"
    process = convert_tifs(*options.split())
    assert process.returncode == 0, process.stderr
    parameters = json.loads((tmp_path / "out" / "dataset.json").read_text())["parameters"]
    assert parameters == {
        "tile_size": 16,
        "overlap": 0.25,
        "val_fraction": 0.4,
        "seed": 7,
        "class_names": ["round", "flat"],
        "merge_classes": "",
        "min_area": 3,
        "min_visible": 0.5,
        "keep_empty": 0.75,
        "intensity_rule": "range:0,255",
        "split_blobs": True,
        "max_pixels": 4000,
        "folds": 2,
    }


def test_classes_are_merged(convert_tifs, tmp_path):
    assert convert_tifs("--merge-classes", "nucleus").returncode == 0
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["class_names"] == ["nucleus"]


def test_keep_empty_alone_keeps_all(convert_tifs, tmp_path):
    assert convert_tifs("--keep-empty").returncode == 0
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["parameters"]["keep_empty"] == 1.0


def test_workers_change_no_byte_and_a_relative_output_is_understood(run_tool, small_root, tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        process = run_tool(
            "convert_tifs",
            "--input",
            small_root,
            "--output",
            name,
            "--workers",
            workers,
            "--tile-size",
            16,
            cwd=tmp_path,
        )
        assert process.returncode == 0, process.stderr
        assert process.stdout.splitlines()[-1] == f"dataset: {name}"
    assert read_folder(tmp_path / "one") == read_folder(tmp_path / "two")


def test_a_missing_input_folder_is_one_line(run_tool, tmp_path):
    process = run_tool("convert_tifs", "--input", tmp_path / "nowhere", "--output", tmp_path / "out")
    assert_one_line(process, tmp_path / "nowhere" / "train", "there is no such folder; put each image in")
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_one_line_unless_it_is_to_be_overwritten(convert_tifs, tmp_path):
    assert convert_tifs().returncode == 0
    before = read_folder(tmp_path / "out")
    assert_one_line(convert_tifs("--tile-size", 16), tmp_path / "out", "exists already", "--overwrite")
    assert read_folder(tmp_path / "out") == before
    assert convert_tifs("--tile-size", 16, "--overwrite").returncode == 0
    assert read_folder(tmp_path / "out") != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--tile-size", 0], "tile_size must be at least 1, not 0", id="tile size"),
        pytest.param(["--overlap", 1], "overlap must be in [0, 1), not 1.0", id="overlap"),
        pytest.param(["--val-fraction", "nan"], "val_fraction must be in [0, 1), not nan", id="validation"),
        pytest.param(["--workers", 0], "workers must be at least 1, not 0", id="workers"),
        pytest.param(["--class-names", "A"], "1 class names are given, but there are 2 classes", id="class names"),
        pytest.param(["--intensity-rule", "auto"], "intensity rule 'auto' is not understood; write", id="rule"),
        pytest.param(["--scheduler", "tcp://"], "write the address as tcp://HOST:PORT", id="scheduler"),
    ],
)
def test_bad_values_are_one_line(convert_tifs, tmp_path, options, message):
    assert_one_line(convert_tifs(*options), message)
    assert sorted(os.listdir(tmp_path)) == ["input"]


@pytest.mark.parametrize("options", [["--tile-size", "big"], ["--on-error", "pray"], ["--tilesize", 5], []])
def test_wrong_usage_is_one_line(run_tool, options):
    assert_one_line(run_tool("convert_tifs", *options), "; see convert_tifs.py --help")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("length", [0, 4, 150, 3000])
def test_a_truncated_image_stops_with_one_line_or_is_skipped(convert_tifs, small_root, tmp_path, length, workers):
    image = small_root / "train" / "b" / "image.tif"
    image.write_bytes(image.read_bytes()[:length])
    assert_one_line(convert_tifs("--workers", workers), image)
    assert not (tmp_path / "out").exists()
    process = convert_tifs("--on-error", "skip", "--workers", workers)
    assert process.returncode == 0
    skipped = [line for line in process.stdout.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == 1
    assert skipped[0].startswith("skipped: train/b/image.tif: ")
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["images"]["train"] != []


# The user's own split, and what else decides what becomes of a cell


def test_a_split_file_is_obeyed(convert_tifs, tmp_path):
    names = sorted(os.listdir(tmp_path / "input" / "train"))
    rows = [f"{name},{'val' if name == names[0] else 'train'}" for name in names]
    (tmp_path / "split.csv").write_text("id,split\n" + "\n".join(rows) + "\n")
    process = convert_tifs("--split", tmp_path / "split.csv")
    assert process.returncode == 0, process.stderr
    images = json.loads((tmp_path / "out" / "dataset.json").read_text())["images"]
    assert images == {"train": names[1:], "val": names[:1]}


def test_images_are_added_to_a_dataset(convert_tifs, run_tool, small_root, tmp_path):
    assert convert_tifs("--tile-size", "32", "--class-names", "A", "B").returncode == 0
    before = json.loads((tmp_path / "out" / "dataset.json").read_text())
    write_sample(tmp_path / "more", "d", np.zeros((40, 40), np.uint8), {1: np.eye(40, dtype=np.uint8)})
    shutil.copytree(small_root / "train" / "a", tmp_path / "more" / "train" / "a")
    tifffile.imwrite(tmp_path / "more" / "train" / "a" / "class2.tif", np.zeros((40, 50), np.uint8))

    def add(*options):
        return run_tool("convert_tifs", "--input", tmp_path / "more", "--add-to", tmp_path / "out", *options)

    kept = read_folder(tmp_path / "out")
    assert_one_line(add("--tile-size", "512"), "--tile-size 512", "was converted with 32")  # also the default
    assert_one_line(add("--output", tmp_path / "other"), "--add-to names the dataset")
    assert read_folder(tmp_path / "out") == kept
    process = add("--workers", "1")
    assert process.returncode == 0, process.stderr
    assert "1 image replaced, 1 image added (1 to train, 0 to val)" in process.stderr
    assert f"dataset: {tmp_path / 'out'}" in process.stdout
    after = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert after["parameters"] == before["parameters"]
    assert after["images"] == {"train": [*before["images"]["train"], "d"], "val": before["images"]["val"]}
    assert after["statistics"]["cells"]["count"] < before["statistics"]["cells"]["count"]


def test_a_cell_of_two_blobs_is_one_cell_or_two(convert_tifs, tmp_path):
    labels = np.zeros((32, 32), np.uint16)
    labels[2:8, 2:8] = labels[20:28, 20:28] = 4
    write_sample(tmp_path / "input", "blobs", np.full((32, 32, 3), 90, np.uint8), {1: labels})
    for options, expected in (([], [4]), (["--split-blobs"], [1, 2])):
        process = convert_tifs("--val-fraction", 0, "--overwrite", *options)
        assert process.returncode == 0, process.stderr
        tiles = COCO(str(tmp_path / "out" / "annotations" / "instances_train.json"))
        image = next(image["id"] for image in tiles.dataset["images"] if image["source"] == "blobs")
        assert sorted(cell["label"] for cell in tiles.imgToAnns[image]) == expected


def test_regions_to_ignore_become_crowds_of_every_class(convert_tifs, tmp_path):
    labels = np.zeros((32, 32), np.uint8)
    labels[2:12, 2:12] = 1
    folder = write_sample(tmp_path / "input", "unsure", np.full((32, 32, 3), 90, np.uint8), {1: labels})
    tifffile.imwrite(folder / "ignore.tif", np.flip(labels))
    assert convert_tifs("--val-fraction", 0, "--class-names", "a", "b", "c").returncode == 0
    tiles = COCO(str(tmp_path / "out" / "annotations" / "instances_train.json"))
    image = next(image["id"] for image in tiles.dataset["images"] if image["source"] == "unsure")
    found = sorted((cell["category_id"], cell["iscrowd"], cell["bbox"]) for cell in tiles.imgToAnns[image])
    ignored = [(number, 1, [20, 20, 10, 10]) for number in (1, 2, 3)]
    assert found == sorted([(1, 0, [2, 2, 10, 10]), *ignored])


def test_an_image_over_the_limit_is_refused_from_its_header(convert_tifs):
    assert_one_line(convert_tifs("--max-pixels", 100), "over the limit of 100 pixels")


def test_a_coco_file_is_tiled(convert_tifs, run_tool, tmp_path):
    assert convert_tifs("--val-fraction", 0.5, "--min-area", 0, "--tile-size", 16).returncode == 0
    whole = tmp_path / "out" / "annotations" / "instances_val_whole.json"
    options = ["--val-fraction", 0, "--min-area", 0, "--tile-size", 16]
    done = run_tool(
        *("convert_tifs", "--input", tmp_path / "out", "--from-coco", whole, "--output", tmp_path / "again", *options)
    )
    assert done.returncode == 0, done.stderr
    first, second = (
        COCO(str(tmp_path / name))
        for name in ("out/annotations/instances_val.json", "again/annotations/instances_train.json")
    )
    assert [cell["segmentation"] for cell in first.dataset["annotations"]] == [
        cell["segmentation"] for cell in second.dataset["annotations"]
    ]


def test_another_reader_sees_the_same_cells(reference, tmp_path):
    (tmp_path / "train.json").write_bytes(reference["annotations/instances_train.json"])
    ours, other = COCO(str(tmp_path / "train.json")), faster_coco_eval.COCO(str(tmp_path / "train.json"))
    assert other.getAnnIds() == ours.getAnnIds()
    for cell in ours.loadAnns(ours.getAnnIds())[::7]:
        assert np.array_equal(other.annToMask(other.anns[cell["id"]]), ours.annToMask(cell))


def test_check_prints_a_report_and_writes_nothing(run_tool, sample_root, tmp_path):
    before = read_folder(tmp_path)
    options = ("--output", tmp_path / "out", "--workers", 1)
    process = run_tool("convert_tifs", "--check", "--input", sample_root, *options, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "60 labelled images with 2,000 cells of 4 classes, 25 test images. Nothing was converted." in process.stdout
    assert "  VERSION: 2\n  _BASE_: " in process.stdout
    assert read_folder(tmp_path) == before
    assert os.listdir(tmp_path) == []


def test_check_writes_the_settings_to_a_file_that_is_a_config(run_tool, small_root, tmp_path):
    options = ("--suggest", tmp_path / "mine.yaml", "--base", "mask_rcnn_R_50_FPN")
    process = run_tool("convert_tifs", "--check", "--input", small_root, "--workers", 1, *options)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == f"settings: {tmp_path / 'mine.yaml'}"
    assert sorted(os.listdir(tmp_path)) == ["input", "mine.yaml"]
    cfg = cellseg_d2.get_cfg(tmp_path / "mine.yaml")
    assert cfg.TEST.DETECTIONS_PER_IMAGE == -1
    assert cfg.MODEL.RESNETS == cellseg_d2.get_cfg("mask_rcnn_R_50_FPN").MODEL.RESNETS


def test_check_with_damaged_files_lists_them_all_and_exits_with_2(run_tool, small_root):
    for name in ("a", "b"):
        (small_root / "train" / name / "image.tif").write_bytes(b"")
    process = run_tool("convert_tifs", "--check", "--input", small_root, "--workers", 1)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith(f"error: {small_root}: 2 of its files cannot be used")
    for name in ("a", "b"):
        assert f"    train/{name}/image.tif: is empty (0 bytes); export it again\n" in process.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--check", "--input", "nowhere"], "there is no such folder; put each image in"),
        (["--check", "--input", "input", "--base", "yolo"], "yolo: there is no such config"),
        (["--input", "input"], "the following arguments are required: --output"),
        (["--input", "input", "--output", "out", "--suggest", "x.yaml"], "--suggest comes with --check"),
    ],
)
def test_wrong_usage_of_the_check_is_one_line(run_tool, small_root, options, message):
    assert_one_line(run_tool("convert_tifs", *options, cwd=small_root.parent), message)
    assert os.listdir(small_root.parent) == ["input"]
