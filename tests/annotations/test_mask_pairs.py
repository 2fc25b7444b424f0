"""Images and label maps of the same names, written by tifffile, Pillow, OpenCV and pandas."""

import logging

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from drawing import discs, noise
from PIL import Image

from cellseg_d2.annotations.mask_pairs import find_labelled
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

RNG = np.random.default_rng(0)
IMAGE = noise(RNG, 40, 50)
CELLS = discs(RNG, 40, 50, 6) * 300
"""Ids of 16 bit, with gaps."""
IDS = np.unique(CELLS[CELLS > 0])
CLASS_OF = dict(zip(IDS.tolist(), [1, 2, 2, 1, 4, 2]))
CLASSES = np.vectorize(CLASS_OF.get)(CELLS, 0)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    return tmp_path


def add_image(root, name="a.tif"):
    path = root / "images" / name
    if path.suffix == ".tif":
        tifffile.imwrite(path, IMAGE, photometric="rgb")
    else:
        assert cv2.imwrite(str(path), IMAGE[..., ::-1])


def add_mask(root, name="a.tif", labels=CELLS, dtype=np.uint16):
    path = root / "masks" / name
    if path.suffix == ".tif":
        tifffile.imwrite(path, labels.astype(dtype))
    else:
        Image.fromarray(labels.astype(dtype)).save(path)


def read(sample, classes=1):
    return sample.read(INTENSITY_RULE, MAX_PIXELS, classes)


def by_class(labels):
    return {layer.categories: layer.labels for layer in labels.label_maps}


def expected(names):
    """Class number -> label map; ``names`` are the numbers of :data:`CLASS_OF` in the order of the classes."""
    return {(place,): np.where(CLASSES == number, CELLS, 0) for place, number in enumerate(names, start=1)}


def check_maps(found, wanted):
    assert found.keys() == wanted.keys()
    for categories, labels in wanted.items():
        assert np.array_equal(found[categories], labels)


@pytest.mark.parametrize("image", ["a.tif", "a.png", "a.jpg", "a.ome.tif"])
@pytest.mark.parametrize("mask", ["a.tif", "a.png"])
def test_a_label_map_of_one_class(root, image, mask):
    add_image(root, image)
    add_mask(root, mask)
    found = find_labelled(root)
    (sample,) = found.images
    assert (sample.id, found.class_names) == ("a", ["cell"])
    labels = read(sample)
    check_maps(by_class(labels), {(1,): CELLS})
    if not image.endswith("jpg"):
        assert np.array_equal(labels.image, IMAGE)


@pytest.mark.parametrize(("images", "masks"), [("raw", "label"), ("images", "labels")])
def test_other_names_of_the_folders(root, images, masks):
    add_image(root)
    add_mask(root)
    (root / "images").rename(root / images)
    (root / "masks").rename(root / masks)
    check_maps(by_class(read(find_labelled(root).images[0])), {(1,): CELLS})


def test_classes_from_a_csv(root):
    names = {1: "tumour", 2: "immune", 4: "immune"}
    add_image(root)
    add_mask(root)
    table = pd.DataFrame({"x": 1.5, "class": [names[CLASS_OF[label]] for label in IDS], "label": IDS})
    table.to_csv(root / "masks" / "a.csv", index=False)
    found = find_labelled(root)
    assert found.class_names == ["immune", "tumour"]
    wanted = {(1,): np.where(np.isin(CLASSES, (2, 4)), CELLS, 0), (2,): np.where(CLASSES == 1, CELLS, 0)}
    check_maps(by_class(read(found.images[0])), wanted)


def test_class_numbers_in_a_csv_are_sorted_as_numbers(root):
    add_image(root)
    add_mask(root)
    names = {1: "10", 2: "9", 4: "other"}
    table = pd.DataFrame({"label": IDS, "class": [names[CLASS_OF[label]] for label in IDS]})
    table.to_csv(root / "masks" / "a.csv", index=False)
    found = find_labelled(root)
    assert found.class_names == ["9", "10", "other"]
    check_maps(by_class(read(found.images[0])), expected([2, 1, 4]))


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("imagej", [False, True])
def test_classes_from_a_second_plane(root, axis, imagej):
    add_image(root)
    planes = np.stack([CELLS, CLASSES]).astype(np.uint16)
    if imagej and axis == 0:
        tifffile.imwrite(root / "masks" / "a.tif", planes, imagej=True, metadata={"axes": "CYX"})
    else:
        tifffile.imwrite(root / "masks" / "a.tif", np.moveaxis(planes, 0, axis))
    found = find_labelled(root)
    assert found.class_names == ["class1", "class2", "class3", "class4"]
    wanted = expected([1, 2, 3, 4])
    check_maps(by_class(read(found.images[0])), {key: wanted[key] for key in ((1,), (2,), (4,))})


def test_classes_from_folders(root):
    for name in ("a.tif", "b.tif"):
        add_image(root, name)
    for name, numbers in (("tumour", [1]), ("immune", [2, 4])):
        (root / "masks" / name).mkdir()
        add_mask(root, f"{name}/a.tif", np.where(np.isin(CLASSES, numbers), CELLS, 0))
    add_mask(root, "tumour/b.tif", CELLS)
    found = find_labelled(root)
    assert found.class_names == ["immune", "tumour"]
    first, second = found.images
    wanted = {(1,): np.where(np.isin(CLASSES, (2, 4)), CELLS, 0), (2,): np.where(CLASSES == 1, CELLS, 0)}
    check_maps(by_class(read(first)), wanted)
    check_maps(by_class(read(second)), {(2,): CELLS})


@pytest.mark.parametrize("other", ["b.tif", "b.png"])
def test_one_plane_beside_two_is_refused_as_its_cells_would_be_of_the_first_class(root, other):
    add_image(root)
    add_image(root, "b.tif")
    tifffile.imwrite(root / "masks" / "a.tif", np.stack([CELLS, CLASSES]).astype(np.uint16))
    add_mask(root, other)
    with pytest.raises(CellSegError, match=rf"{other}: has not two planes, as other label maps have; save the labels"):
        read(find_labelled(root).images[1])


def test_what_is_left_out_is_said(root, caplog):
    for name in ("a.tif", "b.png", "c.jpg"):
        add_image(root, name)
    add_mask(root, "b.tif")
    pd.DataFrame({"label": [*IDS, 5, 7], "class": "x"}).to_csv(root / "masks" / "b.csv", index=False)
    found = find_labelled(root)
    with caplog.at_level(logging.WARNING):
        read(found.images[0])
    assert found.notes == [f"{root}: images without annotations, left out: 2 (images/a.tif, images/c.jpg)"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{root / 'masks' / 'b.csv'}: 2 (5, 7) of its labels are not in the label map"
    ]
    left_out = check(root, ConvertOptions(), annotation_format="mask-pairs").summary["left_out"]
    assert left_out == [f"{root}: images without annotations, left out: 2 (images/a.tif, images/c.jpg)"]


def table(text):
    return lambda root: (root / "masks" / "a.csv").write_text(text)


def planes(classes):
    return lambda root: tifffile.imwrite(root / "masks" / "a.tif", np.stack([CELLS, classes]).astype(np.uint16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (table("id,class\n1,x\n"), r"a\.csv: its first line does not name the columns label and class; add it"),
        (table("label,class\n300,x\n300,y\n"), r"a\.csv: line 3 has the label 300 again; keep one"),
        (table("label,class\n3.5,x\n"), r"a\.csv: line 2 is no label above 0 with a class; correct it"),
        (table("label,class\n300\n"), r"a\.csv: line 2 is no label above 0 with a class; correct it"),
        (table("label,class\n300,x\n"), r"a\.csv: has no class for 5 \(600, .*\) of the labels; add them"),
        (
            lambda root: (root / "masks" / "a.csv").write_bytes(b"label,class\n1,\xff\n"),
            r"a\.csv: cannot be read as a CSV \(.*\); save it as UTF-8",
        ),
        (planes(CLASSES * (CELLS != 600)), r"a\.tif: has no class for 1 \(600\) of the labels; write a number above 0"),
        (planes(CLASSES + np.eye(40, 50)), r"a\.tif: label \d+ has pixels of the classes \d and \d; give it one"),
        (lambda root: add_mask(root, labels=CELLS.T), r"a\.tif: is 50 x 40, its image 40 x 50; they must be of one"),
        (lambda root: add_mask(root, labels=CELLS[:-1]), r"a\.tif: is 39 x 50, its image 40 x"),
        (lambda root: add_mask(root, labels=0 * CELLS[1:]), r"a\.tif: is 39 x 50, its image 40 x"),
        (lambda root: (root / "masks" / "a.tif").write_bytes(b"text"), r"a\.tif: cannot be read as a TIFF"),
    ],
)
def test_what_cannot_be_read_is_one_line(root, change, message):
    add_image(root)
    add_mask(root)
    change(root)
    with pytest.raises(CellSegError, match=message):
        read(find_labelled(root).images[0], 4)


def test_one_bad_table_does_not_keep_the_others_from_being_read(root):
    for name in ("a.tif", "b.tif", "c.tif"):
        add_image(root, name)
        add_mask(root, name)
    pd.DataFrame({"label": IDS, "class": "x"}).to_csv(root / "masks" / "a.csv", index=False)
    (root / "masks" / "b.csv").write_text("label,class\n0,x\n")
    problems = check(root, ConvertOptions(), annotation_format="mask-pairs").summary["problems"]
    assert problems == [
        "masks/b.csv: line 2 is no label above 0 with a class; correct it",
        "masks/c.csv: there is no such file, but other label maps have one; add it",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: (root / "masks").rmdir(), "holds no images folder with a masks folder beside it"),
        (add_image, "masks: holds no label map, neither TIFF nor PNG; add them, with their images' names"),
        (add_mask, r"masks/a\.tif: there is no image a beside it or in a folder beside its own; add it"),
        (
            lambda root: [add_image(root), add_image(root, "a.png"), add_mask(root)],
            r"a\.tif: its image may be .*images/a\.png or .*images/a\.tif; keep or rename one of the two",
        ),
        (
            lambda root: [add_image(root), add_mask(root), add_mask(root, "a.png")],
            r"masks/a\.tif: is of image a, as .*masks/a\.png is; keep or rename one of the two",
        ),
        (
            lambda root: [add_image(root), add_mask(root), (root / "masks" / "x").mkdir()],
            r"masks/a\.tif: lies beside folders of classes; move it into one of them",
        ),
    ],
)
def test_folders_that_cannot_be_understood_are_one_line(root, make, message):
    make(root)
    with pytest.raises(CellSegError, match=message):
        find_labelled(root)


def test_it_is_guessed_checked_and_converted(root, tmp_path, caplog):
    for name in ("a.tif", "b.png", "c.jpg"):
        add_image(root, name)
        add_mask(root, name.replace("jpg", "png"))
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        summary = convert(root, tmp_path / "out", ConvertOptions(val_fraction=0))
    assert "read as mask-pairs (images/x.tif" in caplog.text
    assert summary["counts"]["train"]["cells"] == {"cell": 3 * len(IDS)}
    assert check(root, ConvertOptions()).summary["cells"]["count"] == 3 * len(IDS)
