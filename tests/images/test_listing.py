"""Folders of images, also in folders below, and what their results are called."""

import json
import logging
import os

import numpy as np
import pytest
import tifffile

from cellseg_d2.errors import CellSegError
from cellseg_d2.images.listing import RESULTS_RECORD, ByFileName, InputImage, list_images

IMAGE = np.zeros((6, 8), np.uint8)


@pytest.fixture
def plates(tmp_path):
    """Two plates with images of the same names, one in a folder more, and one image above both."""
    for name in ("b.tif", "one/a.tif", "one/b.tif", "two/deep/a.tif"):
        path = tmp_path / "plates" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, IMAGE)
    return tmp_path / "plates"


def listed(*arguments, **options):
    return [(image.id, image.name, image.file_name) for image in list_images(*arguments, **options)]


def test_folders_below_are_looked_into_and_images_of_one_name_stay_apart(plates):
    (plates / "empty").mkdir()
    assert listed(plates, None) == [
        (1, "b", "b.tif"),
        (2, "one/a", "one/a.tif"),
        (3, "one/b", "one/b.tif"),
        (4, "two/deep/a", "two/deep/a.tif"),
    ]
    assert [image.path for image in list_images(plates, None)] == [plates / name for _, _, name in listed(plates, None)]


def test_a_folder_that_holds_folders_alone_is_enough(plates):
    (plates / "b.tif").unlink()
    assert len(list_images(plates, None)) == 3


def test_several_sources_are_told_apart_by_their_folders_where_names_meet(plates):
    assert [own[1] for own in listed([plates / "one", plates / "two"], None)] == ["a", "b", "deep/a"]
    assert [own[1] for own in listed([plates / "one", plates / "two" / "deep"], None)] == [
        "one/a",
        "one/b",
        "two/deep/a",
    ]
    files = [plates / "one" / "a.tif", plates / "two" / "deep" / "a.tif"]
    assert [own[1] for own in listed(files, None)] == ["one/a", "two/deep/a"]


def test_results_of_earlier_and_of_this_run_are_no_images(plates, caplog):
    for folder in ("results/overlays", "new/overlays", "one/labels/a"):
        (plates / folder).mkdir(parents=True)
        tifffile.imwrite(plates / folder / "made.tif", IMAGE)
    before = {"b", "one/a", "one/b", "two/deep/a"}
    (plates / "results" / RESULTS_RECORD).touch()
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        names = {own[1] for own in listed(plates, None, output=plates / "new")}
    assert names == before | {"one/labels/a/made"}
    assert f"{plates / 'results'}: holds results of predict" in caplog.text
    (plates / "one" / RESULTS_RECORD).touch()  # results beside the images that they are of
    assert {own[1] for own in listed(plates / "one", None)} == {"a", "b"}
    assert {own[1] for own in listed(plates / "one", None, output=plates / "one")} == {"a", "b"}


def test_a_link_that_leads_back_up_ends(plates):
    os.symlink(plates, plates / "one" / "up")
    assert len(list_images(plates, None)) == 4


def test_a_folder_that_is_reached_by_a_link_is_looked_into(plates, tmp_path):
    (tmp_path / "more").mkdir()
    tifffile.imwrite(tmp_path / "more" / "c.tif", IMAGE)
    os.symlink(tmp_path / "more", plates / "three")
    assert ("three/c", "three/c.tif") in [own[1:] for own in listed(plates, None)]


def write_ids(path, *names):
    path.write_text(json.dumps([{"file_name": name, "id": number} for number, name in enumerate(names, start=7)]))
    return path


def test_ids_are_given_by_paths_or_by_names_that_only_one_image_has(plates, tmp_path):
    ids = write_ids(tmp_path / "ids.json", "two/deep/a.tif", "one/a.tif", "one/b.tif", "b.tif")
    assert [own[:2] for own in listed(plates, ids)] == [(7, "two/deep/a"), (8, "one/a"), (9, "one/b"), (10, "b")]
    ids = write_ids(tmp_path / "ids.json", "b.tif", "a.tif")
    assert [own[:2] for own in listed(plates / "one", ids)] == [(7, "b"), (8, "a")]
    (plates / "one" / "a.tif").unlink()
    ids = write_ids(tmp_path / "ids.json", "a.tif", "b.tif", "one/b.tif")
    assert [own[:2] for own in listed(plates, ids)] == [(7, "two/deep/a"), (8, "b"), (9, "one/b")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.tif", "b.tif", "one/b.tif"], "names 'a.tif', which is not in"),
        (["one/a.tif", "one/b.tif", "b.tif"], "has no id for 'two/deep/a.tif'"),
    ],
)
def test_ids_that_could_be_of_two_images_or_leave_one_out_are_refused(names, message, plates, tmp_path):
    with pytest.raises(CellSegError, match=message):
        list_images(plates, write_ids(tmp_path / "ids.json", *names))


def test_an_image_that_has_two_ids_is_refused(plates, tmp_path):
    with pytest.raises(CellSegError, match=r"names 'deep/a\.tif' twice"):
        list_images(plates / "two", write_ids(tmp_path / "ids.json", "a.tif", "deep/a.tif"))


def test_stated_folders_need_not_be_those_of_the_files(plates):
    named = ByFileName(list_images(plates, None))
    assert named["images/two/a.tif"] is None  # two files have this name
    assert named["elsewhere/b.tif"].name == "b"
    assert named["one/b.tif"].name == "one/b"
    assert ByFileName([InputImage(1, plates / "b.tif")])["x/y/b.tif"].id == 1
