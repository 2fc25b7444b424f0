"""Lizard's MATLAB files, written by scipy."""

import logging

import cv2
import numpy as np
import pytest
from drawing import discs, noise
from scipy.io import savemat

from cellseg_d2.annotations.conic import CLASS_NAMES
from cellseg_d2.annotations.lizard import find_labelled
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

SIZE = (40, 50)
IMAGE = noise(np.random.default_rng(0), *SIZE)
CELLS = discs(np.random.default_rng(1), *SIZE, 6) * 11
IDS = np.unique(CELLS[CELLS > 0])[::-1].copy()
CLASSES = np.array([3, 1, 6, 3, 2, 5])[: len(IDS)]


def write(root, name="a", part=1, **variables):
    for folder in (f"Lizard_Images{part}", "Lizard_Labels/Labels", "Overlays"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(root / f"Lizard_Images{part}" / f"{name}.png"), IMAGE[..., ::-1])
    assert cv2.imwrite(str(root / "Overlays" / f"{name}.png"), IMAGE)
    whole = {
        "inst_map": CELLS.astype(np.int32),
        "id": IDS[:, None].astype(np.int32),
        "class": CLASSES[:, None].astype(np.uint8),
        "bbox": np.zeros((len(IDS), 4)),
        "centroid": np.zeros((len(IDS), 2)),
    } | variables
    path = root / "Lizard_Labels" / "Labels" / f"{name}.mat"
    savemat(path, {key: value for key, value in whole.items() if value is not None})
    return path


def read(root):
    found = find_labelled(root)
    assert found.class_names == list(CLASS_NAMES)
    labels = found.images[0].read(INTENSITY_RULE, MAX_PIXELS, 6)
    assert np.array_equal(labels.image, IMAGE)
    return {layer.categories[0]: layer.labels for layer in labels.label_maps}


def test_classes_belong_to_the_ids_in_the_order_of_the_list(tmp_path):
    write(tmp_path)
    write(tmp_path, "b", part=2)
    assert [sample.id for sample in find_labelled(tmp_path).images] == ["a", "b"]
    maps = read(tmp_path)
    assert sorted(maps) == sorted(set(CLASSES.tolist()))
    for number, labels in maps.items():
        assert np.array_equal(labels, np.where(np.isin(CELLS, IDS[number == CLASSES]), CELLS, 0))


def test_ids_that_are_not_in_the_map_are_named(tmp_path, caplog):
    path = write(tmp_path, id=np.append(IDS, [5, 8])[:, None], **{"class": np.append(CLASSES, [1, 1])[:, None]})
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    (record,) = caplog.records
    assert record.getMessage() == f"{path}: 2 (5, 8) of its labels are not in inst_map"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"id": None}, "has not both id and class, as Lizard has; add them"),
        ({"class": CLASSES[:-1, None]}, r"has \d rows in id, \d in class; correct it"),
        ({"id": IDS[:-1, None], "class": CLASSES[:-1, None]}, r"has no class for 1 \(\d+\) of the labels; add them"),
        ({"id": np.where(IDS == IDS[1], IDS[0], IDS)[:, None]}, r"has the id \d+ twice; keep one"),
        ({"class": CLASSES[:, None] + 6}, r"has the class \d+; known are 0 to 6"),
        ({"inst_map": None}, "has no inst_map of one plane"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, variables, message):
    path = write(tmp_path, **variables)
    with pytest.raises(CellSegError, match=message) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_it_is_guessed_checked_and_converted(tmp_path, caplog):
    for name in "ab":
        write(tmp_path / "in", name)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        summary = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0))
    assert "read as lizard (Lizard's MATLAB files" in caplog.text
    assert sum(summary["counts"]["train"]["cells"].values()) == 2 * len(IDS)
    assert check(tmp_path / "in", ConvertOptions()).summary["cells"]["count"] == 2 * len(IDS)
