"""CoNIC's arrays and its list of patches, written by numpy and pandas as they are published."""

import numpy as np
import pandas as pd
import pytest
from drawing import discs, noise

from cellseg_d2.annotations.conic import CLASS_NAMES, find_labelled
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

SIDE, COUNT = 64, 6
RNG = np.random.default_rng(0)
IMAGES = np.stack([noise(RNG, SIDE, SIDE) for _ in range(COUNT)])
CELLS = np.stack([discs(RNG, SIDE, SIDE, 6) for _ in range(COUNT)])
CLASSES = np.where(CELLS > 0, 1 + CELLS % 6, 0)
LABELS = np.stack([CELLS * 3, CLASSES], axis=3).astype(np.uint16)
NAMES = ["consep_1-0000", "consep_1-0001", "glas_12-0000", "glas_12-0001", "crag_2-0000", "crag_2-0001"]


def write(root, labels=LABELS, names=NAMES):
    root.mkdir(exist_ok=True)
    np.save(root / "images.npy", IMAGES)
    np.save(root / "labels.npy", labels)
    if names is not None:
        pd.DataFrame({"patch_info": names}).to_csv(root / "patch_info.csv", index=False)
    return root


def test_instances_and_classes(tmp_path):
    found = find_labelled(write(tmp_path))
    assert found.class_names == list(CLASS_NAMES)
    assert [(sample.id, sample.group) for sample in found.images] == [
        (f"0000{place}", name[:-5]) for place, name in enumerate(NAMES)
    ]
    for place, sample in enumerate(found.images):
        labels = sample.read(INTENSITY_RULE, MAX_PIXELS, 6)
        assert np.array_equal(labels.image, IMAGES[place])
        maps = {layer.categories[0]: layer.labels for layer in labels.label_maps}
        assert sorted(maps) == np.unique(CLASSES[place])[1:].tolist()
        for number, own in maps.items():
            assert np.array_equal(own, np.where(CLASSES[place] == number, LABELS[place, :, :, 0], 0))


def test_without_the_list_of_patches_there_are_no_groups(tmp_path):
    assert {sample.group for sample in find_labelled(write(tmp_path, names=None)).images} == {""}


def with_class(value):
    labels = LABELS.copy()
    labels[..., 1][labels[..., 1] > 0] = value
    return labels


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (LABELS, NAMES[:3], r"patch_info\.csv: names 3 patches, images\.npy has 6; take those of one release"),
        (LABELS[..., :1], NAMES, r"labels\.npy: is \(6, 64, 64, 1\), its images .*; it must be \(6, 64, 64, 2\)"),
        (with_class(0), NAMES, r"labels\.npy: image 0: has no class for \d+ \(.*\) of the labels"),
        (with_class(7), NAMES, r"labels\.npy: image 0: has the class 7; known are 1 to 6"),
        (
            LABELS + np.eye(2, dtype=int)[1] * (RNG.random((1, SIDE, SIDE, 1)) > 0.5),
            NAMES,
            r"has pixels of the classes",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, labels, names, message):
    write(tmp_path, labels, names)
    with pytest.raises(CellSegError, match=message):
        find_labelled(tmp_path).images[0].read(INTENSITY_RULE, MAX_PIXELS, 6)


def test_it_is_guessed_checked_and_converted_and_patches_of_an_image_stay_together(tmp_path, caplog):
    write(tmp_path / "in")
    with caplog.at_level("INFO", "cellseg_d2"):
        summary = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0.34))
    assert "read as conic (CoNIC's images.npy" in caplog.text
    sources = {part: {NAMES[int(name)][:-5] for name in ids} for part, ids in summary["images"].items()}
    assert not sources["train"] & sources["val"]
    assert len(summary["images"]["val"]) == 2
    cells = sum(len(np.unique(own)) - 1 for own in CELLS)
    assert check(tmp_path / "in", ConvertOptions()).summary["cells"]["count"] == cells
