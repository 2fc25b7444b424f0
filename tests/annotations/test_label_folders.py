"""Label maps of a prediction, in a folder per image, written by tifffile."""

import json

import numpy as np
import pytest
import tifffile
from annotated import IMAGE, SIZE, check_maps, filled, label_maps

from cellseg_d2.annotations.label_folders import find_labelled
from cellseg_d2.annotations.readers import find_labelled as guess
from cellseg_d2.errors import CellSegError


@pytest.fixture
def root(tmp_path):
    """Two images; the second has cells of the second class only."""
    for name in ("a", "b"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "labels" / name).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "images" / f"{name}.ome.tif", IMAGE, photometric="rgb")
        tifffile.imwrite(tmp_path / "labels" / name / "class2.tif", filled(_7=(20, 3, 30, 9)).astype(np.uint16))
    tifffile.imwrite(tmp_path / "labels" / "a" / "class1.tif", filled(_5=(2, 3, 10, 12)).astype(np.uint16))
    tifffile.imwrite(tmp_path / "labels" / "a" / "labels.tif", np.zeros(SIZE, np.uint16))
    return tmp_path


def test_each_file_is_a_class_and_the_file_of_all_is_not_read(root):
    found = find_labelled(root)
    assert ([image.id for image in found.images], found.class_names, found.notes) == (
        ["a", "b"],
        ["class1", "class2"],
        [],
    )
    check_maps(label_maps(found), class1=filled(_5=(2, 3, 10, 12)), class2=filled(_7=(20, 3, 30, 9)))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"class_names": ["z", "a", "c"]}, ["z", "a", "c"]),
        ({"class_names": ["a"]}, ["class1", "class2"]),
        ({"class_names": [1, 2]}, ["class1", "class2"]),
        ([1], ["class1", "class2"]),
    ],
)
def test_classes_are_those_of_the_prediction(root, content, names):
    (root / "prediction.json").write_text(json.dumps(content))
    assert find_labelled(root).class_names == names


def test_the_layout_is_guessed_and_not_taken_for_folders_of_classes(root):
    assert [image.id for image in guess(root).images] == ["a", "b"]


def test_a_folder_without_an_image_and_an_input_without_folders_are_refused(root):
    (root / "images" / "a.ome.tif").unlink()
    with pytest.raises(CellSegError, match=r"labels/a: there is no image a beside it or in a folder beside its own"):
        find_labelled(root)
    with pytest.raises(CellSegError, match=r"images/labels: holds no x/class1\.tif, as predict writes them; give the"):
        find_labelled(root / "images")
