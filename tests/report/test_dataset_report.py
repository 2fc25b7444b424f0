"""A page on a dataset: its numbers are those of the check and of the conversion."""

import json

import numpy as np
import pytest
import yaml
from drawing import write_drawn_dataset, write_sample
from pages import read_picture, read_whole_page

from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.overlay import class_color
from cellseg_d2.report.dataset_report import PICTURE_SIDE, write_dataset_report

OPTIONS = ConvertOptions(tile_size=64, class_names=("round", '<script>alert("1")</script>'))
ROUND, EVIL = OPTIONS.class_names


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """8 images of 96 px with 9 cells each: 40 of the first class, 32 of the second."""
    root = tmp_path_factory.mktemp("drawn") / "cells"
    write_drawn_dataset(root)
    return root


@pytest.fixture(scope="module")
def converted(root):
    convert(root, root.parent / "converted", OPTIONS)
    return root.parent / "converted"


def report(folder, output, options=OPTIONS, **more):
    write_dataset_report(folder, output, options, **more)
    return read_whole_page(output)


def test_an_input_is_read_and_its_numbers_are_shown(root, tmp_path):
    page = report(root, tmp_path / "page.html")
    summary = check(root, OPTIONS).summary
    classes, numbers, parameters = page.tables
    assert classes == [
        ["class", "cells", "share", "in images"],
        [ROUND, "40", "55.6 %", "8"],
        [EVIL, "32", "44.4 %", "8"],
    ]
    by_title = {row[0]: row[1:] for row in numbers}
    assert by_title["image height, px"] == ["96"] * 5
    areas = summary["cells"]["area"]
    assert by_title["area of a cell, px"] == [str(areas[key]) for key in ("min", "p5", "p50", "p95", "max")]
    assert dict(parameters)["tile_size"] == "64"
    assert "Labelled images: 8. Cells: 72." in page.text
    assert f"{summary['tiles']['cells_cut']['cells']} cells (" in page.text  # cut by tiles, among what to look at
    assert "script" not in {tag for tag, *_ in page.attributes}


def test_a_conversion_s_own_numbers_are_shown_by_part(converted, tmp_path):
    page = report(converted, tmp_path / "page.html", ConvertOptions(tile_size=999))
    counts = json.loads((converted / "dataset.json").read_text())["counts"]
    classes, _, parameters = page.tables
    assert classes[0] == ["class", "cells", "share", "train", "val", "in images"]
    for row in classes[1:]:
        assert row[3:5] == [str(counts[part]["cells"][row[0]]) for part in ("train", "val")]
        assert sum(map(int, row[3:5])) == int(row[1])
    assert dict(parameters)["tile_size"] == "64"
    legend = page.source[page.source.index("<svg ") :]
    assert ">train</text>" in legend and ">val</text>" in legend


def test_plots_are_told_in_words(root, tmp_path):
    page = report(root, tmp_path / "page.html", pictures=0)
    bars, *boxes = page.values("div", "aria-label")
    assert bars == f"Bar chart of the cells of each class: {ROUND} 40, {EVIL} 32."
    assert len(boxes) == 4 and all(text.startswith("Box plots.") for text in boxes)
    assert f"Medians in cells: all 9, {ROUND} 5, {EVIL} 4." in boxes[2]
    assert "Medians in pixels: height 96, width 96." in boxes[3]
    assert page.values("img", "src") == []


def test_settings_are_a_config(root, tmp_path):
    page = report(root, tmp_path / "page.html", pictures=0)
    start = page.text.index("VERSION: 2")
    config = yaml.safe_load(page.text[start : page.text.index("Parameters of the conversion")])
    own = check(root, OPTIONS).suggestions
    assert config["_BASE_"] == "mask_rcnn_X_101_32x8d_FPN.yaml"
    assert config["MODEL"]["ANCHOR_GENERATOR"]["SIZES"] == own["MODEL.ANCHOR_GENERATOR.SIZES"].value
    assert config["CELLSEG"]["INFERENCE"]["TILE_SIZE"] == 64


@pytest.mark.parametrize("kind", ["input", "converted"])
def test_pictures_show_cells_in_their_class_s_colour(root, converted, tmp_path, kind):
    page = report(root if kind == "input" else converted, tmp_path / "page.html", pictures=3)
    addresses, texts = page.values("img", "src"), page.values("img", "alt")
    assert len(addresses) == len(texts) == 3
    assert all("with its cells coloured: " in text and ROUND in text for text in texts)
    for color in (class_color(0), class_color(1)):
        assert "#" + color.tobytes().hex() in page.source  # the legend's
    assert len({text.split(" ")[0] for text in texts}) == 3


def test_a_picture_is_the_tile_with_most_cells_and_is_bounded(tmp_path):
    image = np.full((1000, 1600, 3), 90, np.uint8)
    labels = np.zeros((1000, 1600), np.int32)
    labels[20:60, 20:60] = 1
    labels[100:200, 900:1000], labels[300:400, 900:1000] = 2, 3
    write_sample(tmp_path / "root", "large", image, {1: labels})
    page = report(tmp_path / "root", tmp_path / "page.html", ConvertOptions(tile_size=800))
    assert page.values("img", "alt") == ["large with its cells coloured: 2 class1."]
    (address,) = page.values("img", "src")
    picture = read_picture(address).astype(int)
    assert picture.shape == (PICTURE_SIDE, PICTURE_SIDE, 3)
    assert abs(picture[75, 75] - (0.65 * 90 + 0.35 * class_color(0))).max() < 8  # the middle of a cell
    assert abs(picture[300, 300] - 90).max() < 8
    assert len(page.source) < 250_000


def test_files_that_cannot_be_used_are_told_and_not_drawn(tmp_path):
    write_drawn_dataset(tmp_path / "root", images=2)
    (tmp_path / "root" / "train" / "image0" / "image.tif").write_bytes(b"no TIFF")
    page = report(tmp_path / "root", tmp_path / "page.html", ConvertOptions())
    assert "1 file cannot be used" in page.text and "train/image0/image.tif" in page.text
    assert [text.split()[0] for text in page.values("img", "alt")] == ["image1"]


def test_nothing_to_look_at_is_said(tmp_path):
    write_drawn_dataset(tmp_path / "root", images=3)
    page = report(tmp_path / "root", tmp_path / "page.html", ConvertOptions())
    assert "Nothing: all files can be read, and the labels look sound." in page.text


def test_a_dataset_without_a_cell_has_a_page(tmp_path):
    nothing = np.zeros((50, 60), np.int32)
    write_sample(tmp_path / "root", "empty", np.zeros((50, 60, 3), np.uint8), {1: nothing})
    page = report(tmp_path / "root", tmp_path / "page.html", ConvertOptions())
    assert page.tables[0][1] == ["class1", "0", "0.0 %", "0"]
    assert page.values("img", "alt") == ["empty with its cells coloured: no cell."]
    assert "Cells of each class. No cells: class1." in page.text
    assert page.text.count("No plot: there are no cells.") == 2  # of sides and of areas
    assert "A dash: there is nothing to measure." in page.text
    assert "Settings that suit" not in page.text


def test_captions_name_the_classes_without_cells(tmp_path):
    nothing = np.zeros((50, 60), np.int32)
    cell = nothing.copy()
    cell[5:20, 5:25] = 1
    write_sample(tmp_path / "root", "one", np.full((50, 60, 3), 90, np.uint8), {1: cell, 2: nothing})
    page = report(tmp_path / "root", tmp_path / "page.html", ConvertOptions(class_names=("all", "rare")), pictures=0)
    assert "Cells of each class. No cells: rare." in page.text
    assert page.text.count("No box: rare, without cells.") == 2
    sides = page.values("div", "aria-label")[1]
    assert "Medians in pixels: all 20, all 20." in sides  # the class of this name is not taken for all of them
    assert "None: no pictures were asked for." in page.text


def test_that_there_is_no_validation_part_is_said(converted, tmp_path):
    assert "There is no validation part" not in report(converted, tmp_path / "page.html").text
    write_drawn_dataset(tmp_path / "root", images=2)
    convert(tmp_path / "root", tmp_path / "done", ConvertOptions(val_fraction=0.0))
    page = report(tmp_path / "done", tmp_path / "page.html", ConvertOptions())
    assert "Cells of each class. There is no validation part." in page.text


def test_a_part_without_cells_is_named(tmp_path):
    write_drawn_dataset(tmp_path / "root", images=3)
    convert(tmp_path / "root", tmp_path / "done", ConvertOptions(val_fraction=0.4))
    description = json.loads((tmp_path / "done" / "dataset.json").read_text())
    cells = description["counts"]["val"]["cells"]
    description["counts"]["val"]["cells"] = dict.fromkeys(cells, 0)
    (tmp_path / "done" / "dataset.json").write_text(json.dumps(description))
    page = report(tmp_path / "done", tmp_path / "page.html", ConvertOptions(), pictures=0)
    assert "Cells of each class. No cells: the part val." in page.text


def test_with_one_class_no_caption_misses_another(tmp_path):
    cell = np.zeros((50, 60), np.int32)
    cell[5:20, 5:25] = 1
    write_sample(tmp_path / "root", "one", np.full((50, 60, 3), 90, np.uint8), {1: cell})
    page = report(tmp_path / "root", tmp_path / "page.html", ConvertOptions())
    assert not any(text in page.text for text in ("No cells", "No box", "No plot", "A dash"))


def test_coco_files_are_read_too(converted, tmp_path):
    page = report(converted, tmp_path / "page.html", from_coco=converted / "annotations" / "instances_val_whole.json")
    content = json.loads((converted / "annotations" / "instances_val_whole.json").read_text())
    assert sum(int(row[1]) for row in page.tables[0][1:]) == len(content["annotations"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param({"counts": {}, "parameters": {}}, "has no statistics; convert again", id="an older version"),
        pytest.param([], "has no statistics; convert again", id="another file"),
    ],
)
def test_descriptions_without_statistics_are_refused(tmp_path, content, message):
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(CellSegError, match=message):
        write_dataset_report(tmp_path, tmp_path / "page.html", OPTIONS)
    assert not (tmp_path / "page.html").exists()


def test_a_negative_number_of_pictures_is_refused(root, tmp_path):
    with pytest.raises(CellSegError, match="pictures must not be negative"):
        write_dataset_report(root, tmp_path / "page.html", OPTIONS, pictures=-1)
