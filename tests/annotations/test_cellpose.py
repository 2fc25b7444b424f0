"""Cellpose's files, written by numpy, OpenCV and tifffile as its ``io`` module does."""

import logging
import os

import cv2
import numpy as np
import pytest
import tifffile
from drawing import discs, noise

from cellseg_d2.annotations.cellpose import find_labelled, read_seg
from cellseg_d2.annotations.readers import find_labelled as find_by_name
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

SIZE = (40, 50)
IMAGE = noise(np.random.default_rng(0), *SIZE)
CELLS = discs(np.random.default_rng(1), *SIZE, 6).astype(np.uint16)


def seg(masks=CELLS, **more):
    """The dict that ``masks_flows_to_seg`` and the GUI save."""
    return {
        "outlines": (masks > 0).astype(np.uint16),
        "masks": masks,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(int(masks.max()), bool),
        "filename": "/data/a.tif",
        "flows": [np.zeros((1, *SIZE, 3), np.uint8), np.zeros(SIZE, np.float32), [], None],
        "diameter": np.float64(17.5),
        "manual_changes": [["11/27/2026, 14:00:00", "added mask", [np.arange(3), np.arange(3)]]],
        "normalize_params": {"lowhigh": None, "percentile": [1.0, 99.0], "invert": False},
        "model_path": 0,
        **more,
    }


@pytest.fixture
def root(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb")
    return tmp_path


def read(root):
    found = find_labelled(root)
    assert found.class_names == ["cell"]
    labels = found.images[0].read(INTENSITY_RULE, MAX_PIXELS, 1)
    assert np.array_equal(labels.image, IMAGE)
    (layer,) = labels.label_maps
    assert (layer.categories, layer.crowd) == ((1,), False)
    return layer.labels


@pytest.mark.parametrize("masks", [CELLS, CELLS.astype(np.int64), CELLS[None], np.asfortranarray(CELLS), CELLS > 0])
def test_masks_of_the_gui(root, masks):
    np.save(root / "a_seg.npy", seg(masks))
    assert np.array_equal(read(root), masks.squeeze())


@pytest.mark.parametrize("name", ["a_cp_masks.png", "a_cp_masks.tif", "a_masks.tif", "a_masks.png"])
def test_masks_as_an_image(root, name):
    if name.endswith("png"):
        cv2.imwrite(str(root / name), CELLS)
    else:
        tifffile.imwrite(root / name, CELLS)
    assert np.array_equal(read(root), CELLS)


def test_the_gui_s_masks_are_taken_of_both_and_pictures_are_not_images(root, caplog):
    np.save(root / "a_seg.npy", seg())
    cv2.imwrite(str(root / "a_cp_masks.png"), np.zeros(SIZE, np.uint16))
    for name in ("a_flows.tif", "a_dP.tif", "a_flows_cp_masks.tif", "a_outlines_cp_masks.png"):
        tifffile.imwrite(root / name, np.zeros(SIZE))
    cv2.imwrite(str(root / "a_cp_outlines.png"), IMAGE)
    with caplog.at_level(logging.INFO):
        assert np.array_equal(read(root), CELLS)
    (record,) = caplog.records
    assert record.getMessage() == f"{root}: beside a _seg.npy, which is read instead: 1 (a_cp_masks.png)"


@pytest.fixture
def by_class(root):
    """Masks of two classes of an image, in a folder each, and of one class of another; the images lie beside."""
    (root / "images").mkdir()
    (root / "a.tif").rename(root / "images" / "a.tif")
    tifffile.imwrite(root / "images" / "b.tif", IMAGE, photometric="rgb")
    for folder, name, masks in (("small", "a", CELLS == 1), ("large", "a", CELLS * (CELLS > 1)), ("large", "b", CELLS)):
        (root / folder).mkdir(exist_ok=True)
        np.save(root / folder / f"{name}_seg.npy", seg(masks))
    return root


@pytest.mark.parametrize("copied", [False, True])
def test_folders_are_classes_where_that_is_asked_for(by_class, copied):
    (by_class / "labels" / "a").mkdir(parents=True)  # results of another format, which are no images
    tifffile.imwrite(by_class / "labels" / "a" / "labels.tif", CELLS)
    if copied:  # as Cellpose's GUI needs them
        for path in by_class.glob("*/*_seg.npy"):
            image = by_class / "images" / path.name.replace("_seg.npy", ".tif")
            (path.parent / image.name).write_bytes(image.read_bytes())
    found = find_by_name(by_class, "cellpose:class_from=folder")
    assert (found.class_names, [image.id for image in found.images], found.notes) == (
        ["large", "small"],
        ["a", "b"],
        [],
    )
    large, small = found.images[0].read(INTENSITY_RULE, MAX_PIXELS, 2).label_maps
    assert (large.categories, small.categories) == ((1,), (2,))
    assert np.array_equal(large.labels, CELLS * (CELLS > 1))
    assert np.array_equal(small.labels, CELLS == 1)
    (other,) = found.images[1].read(INTENSITY_RULE, MAX_PIXELS, 2).label_maps
    assert other.categories == (1,)
    with pytest.raises(CellSegError, match=r"is of the same image as .*add --format cellpose:class_from=folder"):
        find_labelled(by_class)


def test_folders_of_other_images_are_no_classes(root):
    for place, folder in enumerate(("one", "two")):
        (root / folder).mkdir()
        tifffile.imwrite(root / folder / "a.tif", IMAGE + np.uint8(place), photometric="rgb")
        np.save(root / folder / "a_seg.npy", seg())
    (root / "a.tif").unlink()
    assert [image.id for image in find_labelled(root).images] == ["one_a", "two_a"]
    assert find_labelled(root).class_names == ["cell"]


def test_masks_beside_folders_of_classes_and_other_classes_are_refused(by_class):
    np.save(by_class / "c_seg.npy", seg())
    with pytest.raises(CellSegError, match=r"c_seg\.npy: lies beside folders of classes; move it into one of them"):
        find_labelled(by_class, class_from="folder")
    with pytest.raises(CellSegError, match="class_from=name is not known; write class_from=folder or class_from=one"):
        find_labelled(by_class, class_from="name")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (seg(extra=Hostile()), "asks for .*mkdir"),
        (seg(extra=np.array([Hostile(), None], object)), "asks for .*mkdir"),
        (seg(extra=np.random.default_rng(0)), "asks for numpy"),
        (seg(extra=np.array(["text"])), "only numbers are read"),
        (np.array([seg(), 1], object), "it holds an array of object, no dict"),
        ({"outlines": CELLS}, "KeyError: 'masks'"),
        ([1, 2], "it holds an array of int64, no dict"),
        (seg(np.zeros((3, *SIZE), np.uint16) + CELLS), "its masks are not of one plane"),
        (seg(CELLS - 0.5), "holds fractions or NaN"),
        (seg(extra=np.array([seg()["flows"], None], object)) | {"masks": [1, 2]}, "its masks are not of one plane"),
        (seg(CELLS.T), "a_seg.npy: is 50 x 40, its image 40 x 50; they must be of one size"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_no_code_of_it_runs(root, monkeypatch, content, message):
    monkeypatch.chdir(root)
    np.save(root / "a_seg.npy", content)
    with pytest.raises(CellSegError, match=message) as caught:
        read(root)
    assert str(caught.value).startswith(f"{root / 'a_seg.npy'}: ")
    assert sorted(os.listdir(root)) == ["a.tif", "a_seg.npy"]


@pytest.mark.parametrize("length", [0, 5, 60, 200, 2000])
def test_a_truncated_file_is_one_line(root, length):
    path = root / "a_seg.npy"
    np.save(path, seg())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CellSegError, match=r"a_seg\.npy: (is empty|is no _seg\.npy of Cellpose .*save it there again)"):
        read_seg(path)


def test_masks_without_an_image_and_a_folder_without_masks_are_refused(root, tmp_path):
    with pytest.raises(CellSegError, match=r"holds no \*_seg\.npy and no \*_cp_masks\.png or \.tif"):
        find_labelled(root)
    np.save(root / "b_seg.npy", seg())
    with pytest.raises(CellSegError, match=r"b_seg\.npy: there is no image b beside it"):
        find_labelled(root)


def test_it_is_guessed_checked_and_converted(root, tmp_path, caplog):
    np.save(root / "a_seg.npy", seg())
    tifffile.imwrite(root / "b.tif", IMAGE, photometric="rgb")
    cv2.imwrite(str(root / "b_cp_masks.png"), CELLS)
    count = len(np.unique(CELLS)) - 1
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        summary = convert(root, tmp_path / "out", ConvertOptions(val_fraction=0))
    assert "read as cellpose (x_seg.npy" in caplog.text
    assert summary["counts"]["train"]["cells"] == {"cell": 2 * count}
    assert check(root, ConvertOptions(), annotation_format="cellpose").summary["cells"]["count"] == 2 * count
