"""NuInsSeg's folders, written by OpenCV and tifffile."""

import logging

import cv2
import numpy as np
import pytest
import tifffile
from drawing import discs, noise

from cellseg_d2.annotations.nuinsseg import find_labelled
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

SIZE = (40, 50)
IMAGE = noise(np.random.default_rng(0), *SIZE)
CELLS = discs(np.random.default_rng(1), *SIZE, 6).astype(np.uint16)
VAGUE = np.zeros(SIZE, np.uint8)
VAGUE[20:30, 5:25] = 255


def write(root, organ="human liver", name="human_liver_01", labels=CELLS, vague=VAGUE):
    folder = root / organ
    for part in ("tissue images", "label masks", "label masks modify", "mask binary", "vague areas/mask binary"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / "tissue images" / f"{name}.png"), IMAGE[..., ::-1])
    assert cv2.imwrite(str(folder / "mask binary" / f"{name}.png"), 255 * (labels > 0).astype(np.uint8))
    tifffile.imwrite(folder / "label masks" / f"{name}.tif", (labels > 0).astype(np.uint16))
    tifffile.imwrite(folder / "label masks modify" / f"{name}.tif", labels)
    if vague is not None:
        cv2.imwrite(str(folder / "vague areas" / "mask binary" / f"{name}.png"), vague)
    return folder


def read(root):
    labels = find_labelled(root).images[0].read(INTENSITY_RULE, MAX_PIXELS, 1)
    assert np.array_equal(labels.image, IMAGE)
    return {(layer.categories, layer.crowd): layer.labels for layer in labels.label_maps}


def test_nuclei_and_vague_areas_which_are_ignored(tmp_path):
    folder = write(tmp_path)
    for root in (tmp_path, folder):
        found = find_labelled(root)
        assert ([sample.id for sample in found.images], found.class_names) == (["human_liver_01"], ["nucleus"])
        maps = read(root)
        assert maps.keys() == {((1,), False), ((1,), True)}
        assert np.array_equal(maps[(1,), False], CELLS)
        assert np.array_equal(maps[(1,), True], VAGUE > 0)


@pytest.mark.parametrize("vague", [None, np.zeros(SIZE, np.uint8)])
def test_an_image_may_have_no_vague_area(tmp_path, vague):
    write(tmp_path, vague=vague)
    assert read(tmp_path).keys() == {((1,), False)}


def test_images_of_one_name_have_their_organs(tmp_path):
    for organ in ("human liver", "mouse liver"):
        write(tmp_path, organ, "1")
    write(tmp_path, "mouse liver", "2")
    assert [sample.id for sample in find_labelled(tmp_path).images] == ["2", "human liver_1", "mouse liver_1"]


def test_images_without_labels_are_named(tmp_path):
    folder = write(tmp_path)
    cv2.imwrite(str(folder / "tissue images" / "b.png"), IMAGE)
    found = find_labelled(tmp_path)
    assert len(found.images) == 1
    assert found.notes == [f"{folder}: images without annotations, left out: 1 (tissue images/b.png)"]


def test_what_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(CellSegError, match="holds no <organ>/tissue images with label masks modify beside it"):
        find_labelled(tmp_path)
    folder = write(tmp_path, vague=VAGUE.T)
    with pytest.raises(
        CellSegError, match=r"mask binary/human_liver_01\.png: is 50 x 40, its image 40 x 50; they must"
    ):
        read(tmp_path)
    (folder / "tissue images" / "human_liver_01.png").unlink()
    with pytest.raises(CellSegError, match=r"human_liver_01\.tif: there is no image human_liver_01 beside it"):
        find_labelled(tmp_path)


def test_it_is_guessed_checked_and_converted(tmp_path, caplog):
    for name in ("a", "b"):
        write(tmp_path / "in", name=name)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        summary = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0))
    assert "read as nuinsseg (NuInsSeg's folders" in caplog.text
    cells = len(np.unique(CELLS)) - 1
    assert summary["counts"]["train"]["cells"] == {"nucleus": 2 * cells}
    assert check(tmp_path / "in", ConvertOptions()).summary["cells"]["count"] == 2 * cells
