"""MoNuSeg's folders, with XML of ImageScope's form."""

import logging

import numpy as np
import pytest
import tifffile
from drawing import noise
from monusac_files import box, write_pair, xml

from cellseg_d2.annotations.monuseg import find_labelled
from cellseg_d2.annotations.readers import find_labelled as find_by_name
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

SIZE = (40, 50)
IMAGE = noise(np.random.default_rng(0), *SIZE)
PATIENT = "TCGA-A7-A13E"
NAME = f"{PATIENT}-01Z-00-DX1"


def write(root, outlines, name=NAME):
    for folder in ("Tissue Images", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(root / "Tissue Images" / f"{name}.tif", IMAGE, photometric="rgb")
    path = root / "Annotations" / f"{name}.xml"
    path.write_text(outlines if isinstance(outlines, str) else xml({"Description": outlines}))
    return path


def read(root):
    found = find_labelled(root)
    assert found.class_names == ["nucleus"]
    labels = found.images[0].read(INTENSITY_RULE, MAX_PIXELS, 1)
    assert np.array_equal(labels.image, IMAGE)
    return [layer.labels for layer in labels.label_maps]


def test_outlines_are_nuclei_and_those_that_overlap_lose_no_pixel(tmp_path):
    write(tmp_path, [box(2, 3, 10, 12), box(20, 5, 24.5, 9.5), box(8, 10, 14, 16)])
    first, second = np.zeros(SIZE, np.int32), np.zeros(SIZE, np.int32)
    first[3:12, 2:10], first[5:10, 20:25], second[10:16, 8:14] = 1, 2, 3
    found = read(tmp_path)
    assert len(found) == 2
    assert np.array_equal(found[0], first)
    assert np.array_equal(found[1], second)


def test_a_region_without_a_corner_is_left_out(tmp_path, caplog):
    write(tmp_path, [box(2, 3, 10, 12), []])
    with caplog.at_level(logging.WARNING):
        (labels,) = read(tmp_path)
    assert labels.max() == 1
    assert "of 2 objects 1 (region 2) without a pixel and left out" in caplog.text


def test_images_of_one_patient_are_a_group(tmp_path):
    for name in (NAME, f"{PATIENT}-01Z-00-DX2", "other"):
        write(tmp_path, [box(2, 3, 10, 12)], name)
    assert [sample.group for sample in find_labelled(tmp_path).images] == [PATIENT, PATIENT, ""]


def test_what_is_left_out_is_said(tmp_path, caplog):
    path = write(tmp_path, [box(2, 3, 10, 12), box(60, 5, 64, 9), [(1, 1), (2, 2)]])
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{path}: of 3 objects 1 (region 2) outside the image and left out; 1 (region 3) without a pixel and left out"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html></html>", "begins with <html>, not with ImageScope's <Annotations>"),
        ("<Annotations>", "is damaged"),
        (xml({"": [[("a", 1)] * 3]}), "has a Vertex without a number"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(CellSegError, match=message) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_monusacs_files_are_not_taken_for_monusegs(tmp_path, caplog):
    write_pair(tmp_path / "slide", "a", IMAGE, {"Epithelial": [box(1, 1, 4, 4)]})
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        find_by_name(tmp_path / "slide")
    assert "read as monusac" in caplog.text


def test_it_is_guessed_checked_and_converted(tmp_path, caplog):
    for name in (NAME, "b"):
        write(tmp_path / "in", [box(2, 3, 10, 12), box(20, 5, 24.5, 9.5)], name)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        summary = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0))
    assert "read as monuseg (MoNuSeg's Annotations/x.xml" in caplog.text
    assert summary["counts"]["train"]["cells"] == {"nucleus": 4}
    assert check(tmp_path / "in", ConvertOptions()).summary["cells"]["count"] == 4
