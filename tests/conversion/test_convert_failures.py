"""Conversion is whole or not at all: what stands in its way, inputs that cannot be read, values out of range."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawing import (
    discs,
    noise,
    read_folder,
    write_sample,
    write_test_images,
)

from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.cut import below
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError

# Whole or not at all


def test_an_existing_dataset_is_replaced_only_on_demand(small_root, tmp_path):
    output = tmp_path / "out"
    convert(small_root, output, ConvertOptions(tile_size=16))
    before = read_folder(output)
    with pytest.raises(CellSegError, match=r"out: exists already; give another --output, or --overwrite to replace it"):
        convert(small_root, output, ConvertOptions(tile_size=32))
    assert read_folder(output) == before
    convert(small_root, output, ConvertOptions(tile_size=32), overwrite=True)
    assert json.loads((output / "dataset.json").read_text())["parameters"]["tile_size"] == 32
    assert not {name for name in read_folder(output) if "_x16" in name}  # no tile of the old tiling is left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "out"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis", "thesis/file.txt"])
def test_what_is_no_dataset_is_never_overwritten(small_root, tmp_path, overwrite, name):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "file.txt").write_text("years of work")
    with pytest.raises(
        CellSegError, match=r"is no converted dataset, so it is not overwritten|exists already|is a file"
    ):
        convert(small_root, tmp_path / name, ConvertOptions(), overwrite=overwrite)
    assert read_folder(tmp_path / "thesis") == {"file.txt": b"years of work"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "thesis"]


def test_an_empty_folder_is_a_place_to_write_to(small_root, tmp_path):
    (tmp_path / "out").mkdir()
    convert(small_root, tmp_path / "out", ConvertOptions())
    assert (tmp_path / "out" / "dataset.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "out"]


def test_what_a_killed_run_left_is_no_hindrance(small_root, tmp_path):
    convert(small_root, tmp_path / "out", ConvertOptions())
    before = read_folder(tmp_path / "out")
    for name in (".out.partial", ".out.old"):
        (tmp_path / name / "train").mkdir(parents=True)
        (tmp_path / name / "train" / "left.png").touch()
    convert(small_root, tmp_path / "out", ConvertOptions(), overwrite=True)
    assert read_folder(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "out"]


def test_a_dataset_that_a_killed_run_had_moved_aside_survives_a_run_that_fails(small_root, tmp_path):
    output = tmp_path / "out"
    convert(small_root, output, ConvertOptions())
    before = read_folder(output)
    output.rename(tmp_path / ".out.old")  # killed between the two renames at the end
    (small_root / "train" / "b" / "image.tif").write_bytes(b"")
    with pytest.raises(CellSegError, match=r"image\.tif: is empty"):
        convert(small_root, output, ConvertOptions(), overwrite=True)
    assert read_folder(output) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "out"]


def damage_image(root):
    (root / "train" / "b" / "image.tif").write_bytes(b"II*\0 cut off")


def remove_image(root):
    (root / "train" / "b" / "image.tif").unlink()


def shear_labels(root):
    tifffile.imwrite(root / "train" / "b" / "class1.tif", np.ones((30, 41), np.uint8))


def damage_test_image(root):
    write_test_images(root, {"t.tif": np.zeros((5, 6), np.uint8)}, None)
    (root / "test_release" / "t.tif").write_bytes(b"")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(damage_image, r"train/b/image\.tif: cannot be read as a TIFF", id="not a TIFF"),
        pytest.param(remove_image, r"train/b/image\.tif: there is no such file", id="no image"),
        pytest.param(shear_labels, r"class1\.tif: is 30 x 41, its image\.tif 30 x 40", id="labels of another size"),
        pytest.param(damage_test_image, r"test_release/t\.tif: is empty", id="test image"),
    ],
)
def test_after_a_failure_nothing_is_left_and_what_was_there_stays(small_root, tmp_path, damage, message, workers):
    convert(small_root, tmp_path / "there", ConvertOptions())
    before = read_folder(tmp_path / "there")
    damage(small_root)
    for output, overwrite in ((tmp_path / "there", True), (tmp_path / "new" / "out", False)):
        with pytest.raises(CellSegError, match=message):
            convert(small_root, output, ConvertOptions(tile_size=16), workers=workers, overwrite=overwrite)
    assert read_folder(tmp_path / "there") == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "new") == ["input", "there"]
    assert not list(tmp_path.glob("new/*"))


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/proc/none")], ids=["a file", "nowhere"])
def test_a_place_that_cannot_be_written_is_one_line(small_root, tmp_path, make):
    make(tmp_path / "file")
    with pytest.raises(CellSegError, match=r"file: is a (file|link to /proc/none)"):
        convert(small_root, tmp_path / "file" / "out", ConvertOptions())


# Samples that cannot be read


def test_bad_samples_are_skipped_and_listed_on_demand(small_root, tmp_path, caplog):
    damage_image(small_root)
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        summary = convert(small_root, tmp_path / "out", ConvertOptions(), skip_errors=True)
    assert summary["images"] == {"train": ["a"], "val": []}
    (line,) = summary["skipped"]
    assert line.startswith("train/b/image.tif: cannot be read as a TIFF")
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["skipped"] == [line]
    assert any("skipped: " in record.getMessage() for record in caplog.records)
    assert {path.name for path in (tmp_path / "out" / "train").iterdir()} == {"a_y0_x0.png"}


def test_a_bad_sample_stops_before_the_others_are_converted(small_root, tmp_path, caplog):
    (small_root / "train" / "a" / "image.tif").write_bytes(b"")
    with (
        caplog.at_level(logging.INFO, "cellseg_d2"),
        pytest.raises(CellSegError, match=r"train/a/image\.tif: is empty"),
    ):
        convert(small_root, tmp_path / "out", ConvertOptions())
    assert caplog.records == []  # no line of progress


def test_a_bad_test_image_stops_before_the_others_are_converted(small_root, tmp_path, caplog):
    damage_test_image(small_root)
    with (
        caplog.at_level(logging.INFO, "cellseg_d2"),
        pytest.raises(CellSegError, match=r"test_release/t\.tif: is empty"),
    ):
        convert(small_root, tmp_path / "out", ConvertOptions())
    assert caplog.records == []  # no line of progress


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_test_images_are_skipped_and_listed_after_the_samples(small_root, tmp_path, workers):
    damage_image(small_root)
    damage_test_image(small_root)
    line = "test_release/t.tif: is empty (0 bytes); export it again"
    summary = convert(small_root, tmp_path / "none", ConvertOptions(), workers=workers, skip_errors=True)
    assert (summary["skipped"][1:], set(summary["counts"])) == ([line], {"train"})
    assert summary["statistics"] == check(small_root, ConvertOptions()).summary
    assert not (tmp_path / "none" / "annotations" / "image_info_test.json").exists()
    tifffile.imwrite(small_root / "test_release" / "u.tif", np.zeros((5, 6), np.uint8))
    summary = convert(small_root, tmp_path / "one", ConvertOptions(), workers=workers, skip_errors=True)
    assert (summary["skipped"][1:], summary["counts"]["test"]) == ([line], {"images": 1})
    info = json.loads((tmp_path / "one" / "annotations" / "image_info_test.json").read_text())
    assert [image["file_name"] for image in info["images"]] == ["test/u.png"]


@pytest.mark.parametrize("typed", ["a", "./a", "b/../a", "a/", "."])
def test_the_dataset_does_not_depend_on_how_its_input_is_typed(tmp_path, monkeypatch, typed):
    root, rng = tmp_path / "a", np.random.default_rng(1)
    for name in ("sa", "sb"):
        write_sample(root, name, noise(rng, 30, 40), {1: discs(rng, 30, 40, 8)}, photometric="rgb")
    (root / "train" / "sa" / "image.tif").write_bytes(b"")
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(root if typed == "." else tmp_path)
    expected = convert(root, tmp_path / "out", ConvertOptions(), skip_errors=True)
    assert expected["skipped"] == ["train/sa/image.tif: is empty (0 bytes); export it again"]
    assert convert(Path(typed), tmp_path / "again", ConvertOptions(), skip_errors=True) == expected
    assert read_folder(tmp_path / "again") == read_folder(tmp_path / "out")
    assert check(Path(typed), ConvertOptions()).summary == expected["statistics"]


def test_a_path_within_a_message_is_told_below_the_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = f"in/train/in/image.tif: cannot be read ([Errno 13] denied: '{tmp_path}/in/train/in/image.tif')"
    assert below(Path("in"), [line]) == ["train/in/image.tif: cannot be read ([Errno 13] denied: 'train/in/image.tif')"]


def latin1(folder):
    """The file system takes a name of any bytes; this one is no UTF-8."""
    return folder / os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("tests", [False, True])
def test_a_name_that_is_not_utf8_is_refused(small_root, tmp_path, tests):
    if tests:
        write_test_images(small_root, {os.fsdecode(b"caf\xe9.tif"): np.zeros((5, 6), np.uint8)}, None)
    else:
        (small_root / "train" / "b").rename(latin1(small_root / "train"))
    message = r"/caf\\xe9(\.tif)?: its name is not UTF-8; rename it$"
    with pytest.raises(CellSegError, match=message) as caught:
        convert(small_root, tmp_path / "out", ConvertOptions(), skip_errors=True)
    str(caught.value).encode()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"tile_size": 1}, {"min_area": 10_000}], ids=["tile size", "area"])
def test_a_conversion_without_a_training_tile_is_refused(small_root, tmp_path, options):
    with pytest.raises(CellSegError, match=r"no tile .* --tile-size, .* --min-visible .* --keep-empty$"):
        convert(small_root, tmp_path / "out", ConvertOptions(**options))
    assert not (tmp_path / "out").exists()
    convert(small_root, tmp_path / "out", ConvertOptions(**options, keep_empty=1.0))


def test_a_users_split_may_leave_training_empty(small_root, tmp_path):
    (tmp_path / "split.csv").write_text("id,split\na,val\nb,val\n")
    summary = convert(small_root, tmp_path / "out", ConvertOptions(), split_file=tmp_path / "split.csv")
    assert (summary["counts"]["train"]["tiles"], summary["counts"]["val"]["tiles"]) == (0, 2)


def test_when_every_sample_is_bad_there_is_no_dataset(small_root, tmp_path):
    damage_image(small_root)
    (small_root / "train" / "a" / "class1.tif").write_bytes(b"")
    with pytest.raises(CellSegError, match=r"train/a/class1\.tif: is empty"):
        convert(small_root, tmp_path / "out", ConvertOptions(), skip_errors=True)
    assert not (tmp_path / "out").exists()


def test_unknown_files_are_named_in_a_warning(small_root, tmp_path, caplog):
    (small_root / "train" / "a" / "notes.txt").touch()
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        convert(small_root, tmp_path / "out", ConvertOptions())
    assert f"{small_root / 'train' / 'a' / 'notes.txt'}: belongs to no sample, it is left out" in [
        record.getMessage() for record in caplog.records
    ]


def test_an_input_without_labels_is_refused(tmp_path):
    write_sample(tmp_path / "in", "a", np.zeros((5, 6), np.uint8), {})
    with pytest.raises(CellSegError, match=r"no sample has a label file; put class1.tif, class2.tif"):
        convert(tmp_path / "in", tmp_path / "out", ConvertOptions())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"tile_size": 0}, "tile_size must be at least 1, not 0", id="no tile"),
        pytest.param({"overlap": 1.0}, r"overlap must be in \[0, 1\), not 1.0", id="overlap 1"),
        pytest.param({"overlap": float("nan")}, r"overlap must be in \[0, 1\), not nan", id="overlap NaN"),
        pytest.param({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\), not 1.0", id="all for validation"),
        pytest.param({"val_fraction": -0.1}, r"val_fraction must be in \[0, 1\)", id="less than none for validation"),
        pytest.param({"seed": -1}, "seed and min_area must not be negative", id="seed"),
        pytest.param({"min_area": -1}, "seed and min_area must not be negative", id="min_area"),
        pytest.param({"min_visible": 1.5}, r"min_visible and keep_empty must be in \[0, 1\]", id="min_visible"),
        pytest.param({"keep_empty": 2.0}, r"min_visible and keep_empty must be in \[0, 1\]", id="keep_empty"),
        pytest.param({"class_names": ("A", "A")}, "class names must differ: A A", id="names"),
        pytest.param({"intensity_rule": "auto"}, "intensity rule 'auto' is not understood", id="rule"),
    ],
)
def test_values_out_of_range_are_refused(small_root, tmp_path, options, message):
    with pytest.raises(CellSegError, match=message):
        convert(small_root, tmp_path / "out", ConvertOptions(**options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input"]


@pytest.mark.parametrize("workers", [0, -2])
def test_no_worker_is_refused(small_root, tmp_path, workers):
    with pytest.raises(CellSegError, match=f"workers must be at least 1, not {workers}"):
        convert(small_root, tmp_path / "out", ConvertOptions(), workers=workers)


@pytest.mark.parametrize("names", [("class2", "class1"), ("other", "class1"), ("class2", "a", "class1")])
def test_names_of_classes_that_others_have_are_refused(small_root, tmp_path, names):
    write_sample(small_root, "c", np.zeros((9, 9), np.uint8), {2: np.eye(9, dtype=np.uint8)})
    with pytest.raises(CellSegError, match=r"the classes of the input are class1, class2, in this order, and 'class1'"):
        convert(small_root, tmp_path / "out", ConvertOptions(class_names=names))
    assert not (tmp_path / "out").exists()


def test_too_few_class_names_are_refused(small_root, tmp_path):
    write_sample(small_root, "c", np.zeros((9, 9), np.uint8), {2: np.eye(9, dtype=np.uint8)})
    with pytest.raises(CellSegError, match=r"1 class names are given, but there are 2 classes; name all of them"):
        convert(small_root, tmp_path / "out", ConvertOptions(class_names=("A",)))
