"""BBBC038's folders, written by OpenCV and Pillow in the forms that are found in the set."""

import logging

import cv2
import numpy as np
import pytest
from drawing import discs, noise
from PIL import Image

from cellseg_d2.annotations.bbbc038 import find_labelled
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

RNG = np.random.default_rng(0)
IMAGE = noise(RNG, 40, 50)
CELLS = discs(RNG, 40, 50, 6)


def write(root, name, image=IMAGE, labels=CELLS, suffix=".png"):
    """A sample as it is published: an image with an opaque alpha, and a grey mask of 0 and 255 per nucleus."""
    for part in ("images", "masks"):
        (root / name / part).mkdir(parents=True)
    written = cv2.cvtColor(image, cv2.COLOR_RGB2BGRA) if suffix == ".png" else image[..., ::-1]
    assert cv2.imwrite(str(root / name / "images" / f"{name}{suffix}"), written)
    for label in np.unique(labels[labels > 0]):
        mask = np.where(labels == label, 255, 0).astype(np.uint8)
        assert cv2.imwrite(str(root / name / "masks" / f"{label:03}.png"), mask)
    return root / name


def read(sample):
    return sample.read(INTENSITY_RULE, MAX_PIXELS, 1)


def test_masks_become_the_label_map_and_the_image_stays(tmp_path):
    write(tmp_path, "b")
    write(tmp_path, "a", suffix=".jpg")
    found = find_labelled(tmp_path)
    assert ([sample.id for sample in found.images], found.class_names) == (["a", "b"], ["nucleus"])
    labels = read(found.images[1])
    assert np.array_equal(labels.image, IMAGE)
    (layer,) = labels.label_maps
    _, numbered = np.unique(CELLS, return_inverse=True)  # ids without gaps: the place of a mask's file
    assert np.array_equal(layer.labels, numbered.reshape(CELLS.shape))
    assert (layer.categories, layer.crowd) == ((1,), False)


@pytest.mark.parametrize("mode", ["1", "P", "RGBA"])
def test_masks_of_other_kinds_are_read(tmp_path, mode):
    folder = write(tmp_path, "a", labels=(CELLS == 6).astype(int))
    path = folder / "masks" / "001.png"
    mask = Image.fromarray(np.where(CELLS == 6, 255, 0).astype(np.uint8))
    if mode == "P":
        mask = Image.fromarray((CELLS == 6).astype(np.uint8)).convert("P")
        mask.putpalette([0, 0, 0, 200, 0, 0])
    (mask if mode == "P" else mask.convert(mode)).save(path)
    (layer,) = read(find_labelled(tmp_path).images[0]).label_maps
    assert np.array_equal(layer.labels, CELLS == 6)


def test_nuclei_that_overlap_keep_all_their_pixels(tmp_path):
    folder = write(tmp_path, "a", labels=(CELLS == 6).astype(int))
    grown = cv2.dilate((CELLS == 6).astype(np.uint8), np.ones((5, 5)))
    cv2.imwrite(str(folder / "masks" / "002.png"), 255 * grown)
    first, second = read(find_labelled(tmp_path).images[0]).label_maps
    assert np.array_equal(first.labels, (CELLS == 6))
    assert np.array_equal(second.labels, 2 * grown)


def test_what_is_left_out_is_said(tmp_path, caplog):
    folder = write(tmp_path, "a")
    cv2.imwrite(str(folder / "masks" / "empty.png"), np.zeros((40, 50), np.uint8))
    (folder / "masks" / "notes.txt").write_text("")
    (folder / "masks" / ".DS_Store").write_text("")
    (tmp_path / "test1" / "images").mkdir(parents=True)
    found = find_labelled(tmp_path)
    with caplog.at_level(logging.WARNING):
        read(found.images[0])
    assert found.notes == [
        f"{folder / 'masks' / 'notes.txt'}: is neither PNG nor TIFF, it is left out",
        f"{tmp_path / 'test1'}: has no masks folder, it is left out",
    ]
    count = len(list((folder / "masks").glob("*.png")))
    (record,) = caplog.records
    assert record.getMessage() == f"{folder / 'masks'}: of {count} objects 1 (empty.png) without a pixel and left out"


def test_an_image_without_a_nucleus_stays(tmp_path):
    write(tmp_path, "a", labels=np.zeros((40, 50), int))
    assert read(find_labelled(tmp_path).images[0]).label_maps == []


def test_each_mask_that_cannot_be_used_is_a_line(tmp_path):
    folder = write(tmp_path, "a", labels=(CELLS == 6).astype(int))
    cv2.imwrite(str(folder / "masks" / "small.png"), np.zeros((4, 5), np.uint8))
    whole = (folder / "masks" / "001.png").read_bytes()
    (folder / "masks" / "cut.png").write_bytes(whole[: len(whole) // 2])
    cv2.imwrite(str(folder / "masks" / "red.png"), np.full((40, 50, 3), (0, 0, 255), np.uint8))
    (sample,) = find_labelled(tmp_path).images
    cut, red, small = sample.problems(INTENSITY_RULE, MAX_PIXELS, 1)
    assert cut.startswith(f"{folder / 'masks' / 'cut.png'}: cannot be read as a PNG (")
    assert red == f"{folder / 'masks' / 'red.png'}: its channels differ, so it is no label map; save one value a cell"
    assert small == f"{folder / 'masks' / 'small.png'}: is 4 x 5, its image 40 x 50; they must be of one size"
    with pytest.raises(CellSegError, match=r"cut\.png: cannot be read as a PNG"):
        read(sample)
    next(folder.glob("images/*")).write_bytes(b"")
    (line,) = sample.problems(INTENSITY_RULE, MAX_PIXELS, 1)
    assert line.endswith("a.png: is empty (0 bytes); export it again")


@pytest.mark.parametrize("count", [0, 2])
def test_a_folder_without_exactly_one_image_is_refused(tmp_path, count):
    folder = write(tmp_path, "a")
    (folder / "images" / "a.png").unlink()
    for number in range(count):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), IMAGE)
    with pytest.raises(CellSegError, match=rf"a/images: holds {count} images; keep the one that the masks belong to"):
        find_labelled(tmp_path)


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_samples_is_refused(tmp_path, name):
    with pytest.raises(CellSegError, match=r"there is no such folder; give|holds no <id>/images with an <id>/masks"):
        find_labelled(tmp_path / name)


def test_it_is_guessed_checked_and_converted(tmp_path, caplog):
    for name in "abc":
        write(tmp_path / "in", name)
    count = len(np.unique(CELLS)) - 1
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        summary = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0))
    assert "read as bbbc038 (BBBC038's <id>/images/<id>.png" in caplog.text
    assert summary["counts"]["train"]["cells"] == {"nucleus": 3 * count}
    assert check(tmp_path / "in", ConvertOptions()).summary["cells"]["count"] == 3 * count
