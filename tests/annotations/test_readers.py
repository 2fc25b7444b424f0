"""The table of annotation formats: what is guessed, what is refused, and that all formats convert alike."""

import json
import logging

import numpy as np
import pytest
from monusac_files import box, write_pair
from pages import read_whole_page

from cellseg_d2.annotations.monusac import CLASS_NAMES, import_monusac
from cellseg_d2.annotations.readers import READERS, find_labelled
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.report.dataset_report import write_dataset_report


@pytest.fixture(scope="module")
def monusac(tmp_path_factory):
    """Six slides of three patients, two slides each, with cells of two classes and a region to ignore."""
    root, rng = tmp_path_factory.mktemp("monusac"), np.random.default_rng(0)
    for number in range(6):
        slide = f"TCGA-AA-000{number // 2}-01Z-00-DX{number % 2}"
        outlines = {"Epithelial": [box(3, 4, 20, 21), box(30, 30, 44, 41)], "Macrophage": [box(50, 5, 62, 19)]}
        outlines["Ambiguous"] = [box(5, 50, 25, 62)]
        image = rng.integers(0, 255, (64, 70, 3), dtype=np.uint8)
        write_pair(root / slide, f"{slide}_1", image, outlines)
    return root


def annotations(folder, part):
    content = json.loads((folder / "annotations" / f"instances_{part}.json").read_text())
    return content["images"], content["annotations"], content["categories"]


def test_a_format_of_its_own_converts_as_through_the_input_layout(monusac, tmp_path):
    import_monusac(monusac, tmp_path / "layout")
    options = ConvertOptions(class_names=CLASS_NAMES)
    split = tmp_path / "layout" / "patients.csv"
    convert(tmp_path / "layout", tmp_path / "through", options, split_file=split)
    summary = convert(monusac, tmp_path / "direct", options, annotation_format="monusac")
    for part in ("train", "val", "val_whole"):
        assert annotations(tmp_path / "direct", part) == annotations(tmp_path / "through", part)
    patients = {part: {name[:12] for name in names} for part, names in summary["images"].items()}
    assert len(patients["train"] | patients["val"]) == 3
    assert not patients["train"] & patients["val"]


def test_the_format_is_guessed_and_said(monusac, sample_root, caplog):
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        assert find_labelled(monusac).class_names == list(CLASS_NAMES)
    assert "read as monusac" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        assert len(find_labelled(sample_root).images) == 60
    assert not caplog.records


def test_a_folder_that_may_be_of_two_formats_is_not_guessed(monusac, tmp_path):
    write_pair(tmp_path / "slide", "a", np.zeros((8, 9, 3), np.uint8), {"Epithelial": [box(1, 1, 4, 4)]})
    for folder in ("images", "masks"):
        (tmp_path / "id" / folder).mkdir(parents=True)
    with pytest.raises(CellSegError, match=r": may be monusac or bbbc038; say which with --format"):
        find_labelled(tmp_path)


def test_a_check_reads_every_format(monusac):
    summary = check(monusac, ConvertOptions(), annotation_format="monusac").summary
    assert summary["classes"]["Epithelial"]["count"] == 12
    assert summary["problems"] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dots", "no annotation format 'dots'; choose from class-tiffs, coco, monusac, bbbc038"),
        ("coco", "add --from-coco"),
    ],
)
def test_what_cannot_be_read_is_one_line(name, message, tmp_path):
    with pytest.raises(CellSegError, match=message):
        find_labelled(tmp_path, name)


def test_a_page_on_a_dataset_reads_every_format(monusac, tmp_path):
    write_dataset_report(monusac, tmp_path / "page.html", ConvertOptions(), annotation_format="monusac")
    assert "Labelled images: 6. Cells: 18." in read_whole_page(tmp_path / "page.html").text


def test_every_reader_has_a_line_for_help():
    assert all(reader.name == name and reader.description for name, reader in READERS.items())
