"""MATLAB files of HoVer-Net's form, written by scipy."""

import logging

import cv2
import numpy as np
import pytest
from drawing import discs, noise
from scipy.io import savemat

from cellseg_d2.annotations.hovernet import find_labelled
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

SIZE = (40, 50)
IMAGE = noise(np.random.default_rng(0), *SIZE)
CELLS = discs(np.random.default_rng(1), *SIZE, 6) * 10 - 3
CELLS[CELLS < 0] = 0
"""Ids 7, 17, ...: the i-th id is not i."""
IDS = np.unique(CELLS[CELLS > 0])
TYPES = np.array([3, 1, 7, 3, 2, 5])[: len(IDS)]
TYPE_MAP = np.zeros(SIZE)
for identity, kind in zip(IDS, TYPES):
    TYPE_MAP[CELLS == identity] = kind


def write(root, name="a", image=IMAGE, **variables):
    """A file as CoNSeP has it: floats, types as a column; beside the images there are overlays of the same names."""
    for folder in ("Images", "Labels", "Overlay"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(root / "Images" / f"{name}.png"), image[..., ::-1])
    assert cv2.imwrite(str(root / "Overlay" / f"{name}.png"), 255 - image)
    whole = {
        "inst_map": CELLS.astype(np.float64),
        "type_map": TYPE_MAP,
        "inst_type": TYPES[:, None].astype(np.float64),
        "inst_centroid": np.zeros((len(IDS), 2)),
    } | variables
    path = root / "Labels" / f"{name}.mat"
    savemat(path, {key: value for key, value in whole.items() if value is not None}, do_compression=True)
    return path


def read(root):
    found = find_labelled(root)
    labels = found.images[0].read(INTENSITY_RULE, MAX_PIXELS, len(found.class_names))
    assert np.array_equal(labels.image, IMAGE)
    return found.class_names, {(layer.categories, layer.crowd): layer.labels for layer in labels.label_maps}


@pytest.mark.parametrize("without", ["type_map", "inst_type", None])
def test_row_i_is_the_class_of_the_i_th_id(tmp_path, without):
    write(tmp_path, **({without: None} if without else {}))
    names, maps = read(tmp_path)
    assert names == [f"class{number}" for number in range(1, 8)]
    assert sorted(maps) == [((number,), False) for number in sorted(set(TYPES.tolist()))]
    for ((number,), _), labels in maps.items():
        assert np.array_equal(labels, np.where(np.isin(CELLS, IDS[number == TYPES]), CELLS, 0))


def test_files_without_classes_are_of_one(tmp_path):
    write(tmp_path, type_map=None, inst_type=None)
    names, maps = read(tmp_path)
    assert names == ["nucleus"]
    assert np.array_equal(maps[(1,), False], CELLS)


def test_an_image_without_a_cell_has_no_rows(tmp_path):
    write(tmp_path, inst_map=np.zeros(SIZE), type_map=np.zeros(SIZE), inst_type=np.zeros((0, 1)))
    write(tmp_path, "b")
    _, maps = read(tmp_path)
    assert maps == {}


def test_cells_of_type_0_are_ignored_and_named(tmp_path, caplog):
    types = np.where(TYPES == 3, 0, TYPES)
    path = write(tmp_path, inst_type=types[:, None], type_map=None)
    with caplog.at_level(logging.WARNING):
        _, maps = read(tmp_path)
    every_class = tuple(range(1, 8))
    assert np.array_equal(maps[every_class, True], np.where(TYPE_MAP == 3, CELLS, 0))
    assert not any(((number,), False) in maps for number in (3, 4, 6))
    (record,) = caplog.records
    assert find_labelled(tmp_path).notes == [f"{tmp_path}: images without annotations, left out: 1 (Overlay/a.png)"]
    ids = ", ".join(map(str, IDS[types == 0]))
    assert record.getMessage() == f"{path}: {(types == 0).sum()} ({ids}) of its cells have no class, they are ignored"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"inst_map": None}, "has no inst_map of one plane"),
        ({"inst_map": np.zeros((2, *SIZE))}, "has no inst_map of one plane"),
        (
            {"inst_map": CELLS.T.astype(float), "type_map": None},
            "is 50 x 40, its image 40 x 50; they must be of one size",
        ),
        ({"inst_type": TYPES[:-1, None]}, r"has \d rows in inst_type for \d ids in inst_map; correct it"),
        ({"inst_map": CELLS - 0.5}, "holds fractions or NaN"),
        ({"inst_type": None, "type_map": np.ones((3, 4))}, "has neither inst_type nor a type_map of the size"),
        ({"inst_type": None, "type_map": TYPE_MAP + np.eye(*SIZE)}, "has pixels of the classes"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, variables, message):
    path = write(tmp_path, **variables)
    with pytest.raises(CellSegError, match=message) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("length", [0, 100, 600])
def test_a_damaged_file_is_one_line(tmp_path, length):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CellSegError, match=r"a\.mat: (is empty|cannot be read as a MATLAB file .*; copy it again)"):
        read(tmp_path)


def test_a_file_of_matlab_7_3_is_refused_with_the_fix(tmp_path):
    path = write(tmp_path)
    data = bytearray(path.read_bytes())
    data[124:126] = (0x0200).to_bytes(2, "little")  # the version in the header, which HDF5 files have too
    path.write_bytes(data)
    with pytest.raises(CellSegError, match=r"a\.mat: is of MATLAB 7\.3, which is not read; save it there with '-v7'"):
        read(tmp_path)


def test_it_is_guessed_checked_and_converted(tmp_path, caplog):
    for name in "ab":
        write(tmp_path / "in", name)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        summary = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0))
    assert "read as hovernet (MATLAB files of HoVer-Net" in caplog.text
    assert sum(summary["counts"]["train"]["cells"].values()) == 2 * len(IDS)
    assert check(tmp_path / "in", ConvertOptions()).summary["cells"]["count"] == 2 * len(IDS)
