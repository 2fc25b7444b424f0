"""tools/convert_tifs.py as a user runs it: a process, its exit code and what it prints."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from drawing import discs, noise, read_folder, write_sample, write_test_images
from pycocotools.coco import COCO

CONTRACT = [
    *("--input", "--output", "--tile-size", "--overlap", "--val-fraction", "--seed", "--class-names", "--min-area"),
    *("--min-visible", "--keep-empty", "--workers", "--scheduler", "--overwrite", "--on-error"),
]


@pytest.fixture
def small_root(tmp_path):
    """Three small samples of two classes, and a test image."""
    rng = np.random.default_rng(1)
    for name in ("a", "b", "c"):
        maps = {1: discs(rng, 40, 50, 8), 2: discs(rng, 40, 50, 2)}
        write_sample(tmp_path / "input", name, noise(rng, 40, 50), maps, photometric="rgb")
    write_test_images(tmp_path / "input", {"t.tif": noise(rng, 20, 30)}, None)
    return tmp_path / "input"


@pytest.fixture
def convert_tifs(run_tool, small_root, tmp_path):
    """Converts the small samples to ``out`` with further options, in one process."""

    def run(*options):
        return run_tool("convert_tifs", "--input", small_root, "--output", tmp_path / "out", "--workers", 1, *options)

    return run


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
    options += " --min-visible 0.5 --keep-empty 0.75 --intensity-rule range:0,255"
    process = convert_tifs(*options.split())
    assert process.returncode == 0, process.stderr
    parameters = json.loads((tmp_path / "out" / "dataset.json").read_text())["parameters"]
    assert parameters == {
        "tile_size": 16,
        "overlap": 0.25,
        "val_fraction": 0.4,
        "seed": 7,
        "class_names": ["round", "flat"],
        "min_area": 3,
        "min_visible": 0.5,
        "keep_empty": 0.75,
        "intensity_rule": "range:0,255",
    }


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
        pytest.param(["--class-names", "A"], "1 class names are given, but there is a class2.tif", id="class names"),
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


def test_a_disk_that_takes_no_more_leaves_what_was_there(convert_tifs, small_root, tmp_path):
    assert convert_tifs("--tile-size", 16).returncode == 0
    before = read_folder(tmp_path / "out")
    command = (
        f'ulimit -f 2; exec "$0" "$1" --input "{small_root}" --output "{tmp_path / "out"}" --workers 1 --overwrite'
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    process = subprocess.run(
        ["sh", "-c", command, sys.executable, os.path.join(root, "tools", "convert_tifs.py")],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert_one_line(process, tmp_path / "out", "cannot be written (File too large)")
    assert read_folder(tmp_path / "out") == before
    assert sorted(os.listdir(tmp_path)) == ["input", "out"]
