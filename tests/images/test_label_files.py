"""Label maps in PNG and TIFF, written by Pillow, OpenCV and tifffile: every id comes back."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from cellseg_d2.errors import CellSegError
from cellseg_d2.images.label_files import read_label_and_class, read_label_file

LABELS = np.arange(48).reshape(6, 8) % 11


def palette(labels):
    image = Image.fromarray(labels.astype(np.uint8)).convert("P")
    image.putpalette([value for number in range(256) for value in (number, 255 - number, 7)])
    return image


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(Image.fromarray(LABELS.astype(np.uint8)), id="8 bit"),
        pytest.param(Image.fromarray(LABELS.astype(np.uint8)).convert("RGB"), id="RGB"),
        pytest.param(Image.fromarray(LABELS.astype(np.uint8)).convert("LA"), id="alpha"),
        pytest.param(Image.fromarray(LABELS.astype(np.uint8)).convert("RGBA"), id="RGBA"),
        pytest.param(palette(LABELS), id="palette"),
    ],
)
def test_ids_of_any_kind_of_png_come_back(tmp_path, image):
    image.save(tmp_path / "a.PNG")
    assert np.array_equal(read_label_file(tmp_path / "a.PNG"), LABELS)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_ids_of_16_bit_come_back(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), (LABELS * 6000).astype(np.uint16))
    found = read_label_file(path)
    assert np.array_equal(found, LABELS * 6000)
    assert found.dtype == np.int32


def test_one_bit_is_one_cell(tmp_path):
    Image.fromarray(LABELS > 3).save(tmp_path / "a.png")
    assert np.array_equal(read_label_file(tmp_path / "a.png"), LABELS > 3)


def damaged(path):
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 9, (60, 80)).astype(np.uint16))
    path.write_bytes(path.read_bytes()[:900])


def colours(path):
    cv2.imwrite(str(path), np.dstack([LABELS, LABELS, LABELS + 1]).astype(np.uint8))


def see_through(path):
    Image.fromarray(LABELS.astype(np.uint8)).convert("LA").save(path)
    with Image.open(path) as image:
        image.putalpha(128)
        image.save(path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.png", lambda path: None, "there is no such file"),
        ("a.png", lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
        ("a.png", lambda path: path.write_bytes(b"text"), "cannot be read as a PNG .*export it again"),
        ("a.png", damaged, "cannot be read as a PNG .*export it again"),
        ("a.png", colours, "its channels differ, so it is no label map; save one value a cell"),
        ("a.png", see_through, "its channels differ, so it is no label map; save one value a cell"),
        (
            "a.png",
            lambda path: cv2.imwrite(str(path), np.dstack([LABELS * 6000] * 3).astype(np.uint16)),
            "several channels of 16 bit; save the label map with one",
        ),
        ("a.tif", lambda path: tifffile.imwrite(path, LABELS - 5), "negative labels"),
        ("a.jpg", lambda path: cv2.imwrite(str(path), LABELS), "neither TIFF nor PNG; .* JPEG would change its ids"),
    ],
)
def test_what_is_no_label_map_is_one_line(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(CellSegError, match=rf"{name}: .*{message}"):
        read_label_file(tmp_path / name)


def test_one_that_is_too_large_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), LABELS)
    with pytest.raises(CellSegError, match="is 6 x 8, over the limit of 47 pixels"):
        read_label_file(tmp_path / "a.png", max_pixels=47)


def test_two_planes_are_turned_as_one_is_and_refused_where_ids_may_have_changed(tmp_path):
    rng = np.random.default_rng(3)
    planes = rng.integers(0, 9, (2, 20, 30)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="minisblack", extratags=[(274, "H", 1, 6, True)])
    labels, classes = read_label_and_class(tmp_path / "a.tif")
    assert np.array_equal(labels, np.rot90(planes[0], -1)) and np.array_equal(classes, np.rot90(planes[1], -1))
    lossy = {"compression": "jpeg2000", "compressionargs": {"level": 40}}
    tifffile.imwrite(tmp_path / "b.tif", planes, photometric="minisblack", **lossy)
    with pytest.raises(CellSegError, match=r"b\.tif: is compressed with lossy JPEG 2000"):
        read_label_and_class(tmp_path / "b.tif")
