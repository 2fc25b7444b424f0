"""The input layout: what is found, what is left out, and the id file of the test images."""

import json
import logging
from unittest import mock

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from drawing import write_sample, write_test_images

from cellseg_d2.annotations.class_tiffs import JOINT_FILE, find_samples
from cellseg_d2.cells.image_names import read_image_ids
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.rle import column_runs
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.label_tiff import write_label_maps
from cellseg_d2.images.listing import find_test_images, list_images
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

IMAGE = np.zeros((6, 8, 3), np.uint8)
CELLS = np.eye(6, 8, dtype=np.int32)


def ids_of(root, content):
    path = root / "test_image_name_to_ids.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# Labelled samples


def test_the_sample_data_are_found(sample_root):
    samples, unknown = find_samples(sample_root)
    assert len(samples) == 60
    assert unknown == []
    assert sorted({number for sample in samples for number in sample.labels}) == [1, 2, 3, 4]


def test_samples_come_by_id_with_their_label_files(tmp_path):
    for name, numbers in (("b", (1, 2)), ("a", (12,)), ("c", ())):
        write_sample(tmp_path, name, IMAGE, dict.fromkeys(numbers, CELLS))
    samples, unknown = find_samples(tmp_path)
    assert [(sample.id, sorted(sample.labels)) for sample in samples] == [("a", [12]), ("b", [1, 2]), ("c", [])]
    assert unknown == []
    labels = samples[1].read(INTENSITY_RULE, MAX_PIXELS, 12)
    image, layers = labels.image, labels.label_maps
    assert image.shape == (6, 8, 3)
    assert [(layer.categories, layer.crowd) for layer in layers] == [((1,), False), ((2,), False)]
    assert all(np.array_equal(layer.labels, CELLS) for layer in layers)


def test_regions_to_ignore_are_of_every_class(tmp_path):
    folder = write_sample(tmp_path, "a", IMAGE, {2: CELLS})
    (folder / "class2.tif").rename(folder / "Ignore.tif")
    (sample,), unknown = find_samples(tmp_path)
    assert (sample.labels, unknown) == ({}, [])
    (layer,) = sample.read(INTENSITY_RULE, MAX_PIXELS, 3).label_maps
    assert (layer.categories, layer.crowd) == ((1, 2, 3), True)
    assert np.array_equal(layer.labels, CELLS)


@pytest.mark.parametrize("name", ["image.tiff", "IMAGE.TIF", "Image.Tiff"])
def test_other_spellings_of_the_suffix_are_read(tmp_path, name):
    folder = write_sample(tmp_path, "a", IMAGE, {1: CELLS})
    (folder / "image.tif").rename(folder / name)
    (folder / "class1.tif").rename(folder / "Class1.TIFF")
    (sample,), unknown = find_samples(tmp_path)
    assert unknown == []
    assert (sample.image.name, sample.labels[1].name) == (name, "Class1.TIFF")


def test_files_that_belong_to_no_sample_are_named(tmp_path):
    folder = write_sample(tmp_path, "a", IMAGE, {1: CELLS})
    strange = [folder / name for name in ("class0.tif", "class01.tif", "class1.png", "classA.tif", "notes.txt")]
    for path in (*strange, folder.parent / "readme.txt"):
        path.touch()
    (sample,), unknown = find_samples(tmp_path)
    assert sorted(sample.labels) == [1]
    assert sorted(unknown) == sorted([*strange, folder.parent / "readme.txt"])


def test_the_file_of_all_cells_that_predict_writes_is_no_strange_one_beside_files_of_classes(tmp_path):
    folder = write_sample(tmp_path, "a", IMAGE, {1: CELLS})
    write_label_maps(folder, CellInstances.from_runs(column_runs(CELLS)[1], [0] * (len(np.unique(CELLS)) - 1)), ["a"])
    (sample,), unknown = find_samples(tmp_path)
    assert ([path.name for path in sample.labels.values()], unknown) == (["class1.tif"], [])
    (folder / "class1.tif").unlink()
    assert find_samples(tmp_path)[1] == [folder / JOINT_FILE]


@pytest.mark.parametrize(
    ("first", "second"),
    [pytest.param("class1.tif", "class1.tiff", id="labels"), pytest.param("image.tif", "image.tiff", id="image")],
)
def test_two_files_for_one_thing_are_refused_as_one_would_be_lost(tmp_path, first, second):
    folder = write_sample(tmp_path, "a", IMAGE, {1: CELLS})
    (folder / second).write_bytes((folder / first).read_bytes())
    with pytest.raises(CellSegError) as caught:
        find_samples(tmp_path)
    assert str(caught.value) == f"{folder / second}: is there beside {first}; keep one of the two"


@pytest.mark.parametrize("make", ["nothing", "train", "file"])
def test_a_root_without_samples_is_refused(tmp_path, make):
    if make != "nothing":
        (tmp_path / "train").mkdir()
    if make == "file":
        (tmp_path / "train" / "image.tif").touch()
    with pytest.raises(CellSegError, match=r"put each image in .*train/<id>/image.tif"):
        find_samples(tmp_path)


def test_a_sample_without_its_image_is_refused_when_it_is_read(tmp_path):
    folder = write_sample(tmp_path, "a", IMAGE, {1: CELLS})
    (folder / "image.tif").unlink()
    (sample,), _ = find_samples(tmp_path)
    with pytest.raises(CellSegError, match=r"train/a/image\.tif: there is no such file"):
        sample.read(INTENSITY_RULE, MAX_PIXELS, 2)


def test_labels_of_another_size_than_the_image_are_refused(tmp_path):
    write_sample(tmp_path, "a", IMAGE, {1: CELLS, 2: CELLS.T})
    (sample,), _ = find_samples(tmp_path)
    with pytest.raises(CellSegError, match=r"class2\.tif: is 8 x 6, its image\.tif 6 x 8; they must be of one size"):
        sample.read(INTENSITY_RULE, MAX_PIXELS, 2)


# Test images and their ids


def test_the_sample_test_images_have_the_ids_of_the_id_file(sample_root):
    images = find_test_images(sample_root)
    entries = json.loads((sample_root / "test_image_name_to_ids.json").read_text())
    assert [(image.path.name, image.id, image.size) for image in images] == [
        (entry["file_name"], entry["id"], (entry["height"], entry["width"])) for entry in entries
    ]


def test_a_root_without_test_images_has_none(tmp_path):
    assert find_test_images(tmp_path) == []


def test_without_an_id_file_the_sorted_files_are_numbered_from_1(tmp_path):
    write_test_images(tmp_path, {"b.tif": IMAGE, "a.tiff": IMAGE, "c.TIF": IMAGE}, None)
    (tmp_path / "test_release" / "notes.txt").touch()
    images = find_test_images(tmp_path)
    assert [(image.id, image.path.name, image.size) for image in images] == [
        (1, "a.tiff", None),
        (2, "b.tif", None),
        (3, "c.TIF", None),
    ]


def test_images_that_would_share_their_results_are_refused(tmp_path):
    write_test_images(tmp_path, {"a.tif": IMAGE, "a.tiff": IMAGE}, None)
    with pytest.raises(
        CellSegError, match=r"a\.tiff: has the name of a\.tif but for the suffix; rename one of the two"
    ):
        find_test_images(tmp_path)


def test_one_file_is_a_source_too(tmp_path):
    tifffile.imwrite(tmp_path / "cells.tif", IMAGE, photometric="rgb")
    (image,) = list_images(tmp_path / "cells.tif", None)
    assert (image.id, image.read(INTENSITY_RULE).shape) == (1, (6, 8, 3))


def write_zarr(path, pixels):
    """An OME-Zarr image of one grey plane, in OME-NGFF 0.3."""
    options = {"zarr_format": 2} if int(zarr.__version__[0]) > 2 else {}
    group = zarr.open_group(str(path), mode="w", **options)
    zarr.open(str(path / "0"), mode="w", shape=pixels.shape, chunks=pixels.shape, dtype=pixels.dtype, **options)[:] = (
        pixels
    )
    group.attrs["multiscales"] = [{"axes": ["y", "x"], "datasets": [{"path": "0"}]}]


@pytest.fixture
def mixed(tmp_path):
    """A folder with an image of each kind, of the same size, and what is none."""
    folder = tmp_path / "images"
    (folder / "notes").mkdir(parents=True)
    tifffile.imwrite(folder / "c.TIF", IMAGE, photometric="rgb")
    cv2.imwrite(str(folder / "b.png"), IMAGE)
    cv2.imwrite(str(folder / "d.jpeg"), IMAGE)
    write_zarr(folder / "a.ome.zarr", IMAGE[..., 0])
    for name in ("._c.tif", "notes.txt", "c.csv"):
        (folder / name).touch()
    return folder


def test_images_of_every_kind_are_found_and_read(mixed):
    images = list_images(mixed, None)
    assert [(image.id, image.path.name) for image in images] == [
        (1, "a.ome.zarr"),
        (2, "b.png"),
        (3, "c.TIF"),
        (4, "d.jpeg"),
    ]
    for image in images:
        assert np.array_equal(image.read(INTENSITY_RULE), IMAGE)
        with image.open(INTENSITY_RULE) as regions:
            assert regions.size == (6, 8)
            assert np.array_equal(regions.read((1, 2, 5, 6)), IMAGE[2:6, 1:5])


def test_ids_name_images_of_every_kind(mixed):
    names = ["d.jpeg", "c.TIF", "b.png", "a.ome.zarr"]
    entries = [{"file_name": name, "id": number, "height": 6, "width": 8} for number, name in enumerate(names, start=7)]
    images = list_images(mixed, ids_of(mixed.parent, entries))
    assert [(image.path.name, image.id, image.size) for image in images] == [
        (name, number, (6, 8)) for number, name in enumerate(names, start=7)
    ]


def test_images_beside_the_tiffs_are_no_test_images_of_the_input_layout(tmp_path, mixed):
    mixed.rename(tmp_path / "test_release")
    assert [image.path.name for image in find_test_images(tmp_path)] == ["c.TIF"]


def test_an_ome_zarr_folder_is_an_image_not_a_folder_of_images(mixed):
    assert [image.path for image in list_images(mixed / "a.ome.zarr", None)] == [mixed / "a.ome.zarr"]


def test_several_sources_come_in_their_order_and_once(tmp_path, mixed):
    other = tmp_path / "other"
    other.mkdir()
    tifffile.imwrite(other / "z.tif", IMAGE, photometric="rgb")
    images = list_images([other / "z.tif", mixed / "d.jpeg", mixed, other / ".." / "other"], None)
    assert [(image.id, image.path.stem) for image in images] == [
        (1, "z"),
        (2, "d"),
        (3, "a.ome"),
        (4, "b"),
        (5, "c"),
    ]


def test_a_size_that_differs_from_the_id_file_is_refused_for_windows_too(mixed):
    entries = [
        {"file_name": name, "id": number, "height": 8, "width": 6}
        for number, name in enumerate(("a.ome.zarr", "b.png", "c.TIF", "d.jpeg"))
    ]
    for image in list_images(mixed, ids_of(mixed.parent, entries)):
        for read in (image.open, image.read):
            with pytest.raises(CellSegError, match=r": is 6 x 8, the id file says 8 x 6; correct it"):
                read(INTENSITY_RULE)


def test_an_image_that_is_too_large_to_be_read_whole_is_refused(mixed):
    for image in list_images(mixed, None):
        with pytest.raises(CellSegError, match=r"over the limit of 47 pixels"):
            image.read(INTENSITY_RULE, max_pixels=47)


def test_slides_are_left_out_with_the_mend_where_tiffslide_is_missing(mixed, caplog):
    (mixed / "e.svs").touch()
    with mock.patch.dict("sys.modules", tiffslide=None), caplog.at_level(logging.WARNING, "cellseg_d2"):
        assert [image.path.stem for image in list_images(mixed, None)] == ["a.ome", "b", "c", "d"]
        assert "1 slides are left out" in caplog.text
        assert "pip install 'cellseg_d2[slides]'" in caplog.text
        for path in mixed.iterdir():
            if path.is_file() and path.suffix != ".svs":
                path.unlink()
        (mixed / "a.ome.zarr").rename(mixed.parent / "a.ome.zarr")
        with pytest.raises(CellSegError, match=r"e\.svs: needs tiffslide .*; pip install 'cellseg_d2\[slides\]'"):
            list_images(mixed, None)


def test_slides_are_listed_with_tiffslide(mixed):
    pytest.importorskip("tiffslide")
    (mixed / "e.SVS").touch()
    assert [image.path.name for image in list_images(mixed, None)][-1] == "e.SVS"


def test_sizes_in_an_id_file_may_be_left_out(tmp_path):
    write_test_images(tmp_path, {"a.tif": IMAGE}, [{"file_name": "a.tif", "id": 5}])
    (image,) = find_test_images(tmp_path)
    assert (image.id, image.size) == (5, None)
    assert image.read(INTENSITY_RULE).shape == (6, 8, 3)


def test_a_size_that_differs_from_the_id_file_is_refused(tmp_path):
    write_test_images(tmp_path, {"a.tif": IMAGE}, [{"file_name": "a.tif", "id": 5, "height": 8, "width": 6}])
    (image,) = find_test_images(tmp_path)
    with pytest.raises(CellSegError, match=r"a\.tif: is 6 x 8, the id file says 8 x 6; correct it"):
        image.read(INTENSITY_RULE)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        pytest.param([("a.tif", 1), ("x.tif", 2)], "names 'x.tif', which is not in .*test_release", id="no such image"),
        pytest.param([("a.tif", 1)], "has no id for 'b.tif' of .*test_release", id="image without id"),
    ],
)
def test_an_id_file_that_does_not_match_the_folder_is_refused(tmp_path, entries, message):
    ids = [{"file_name": name, "id": number} for name, number in entries]
    write_test_images(tmp_path, {"a.tif": IMAGE, "b.tif": IMAGE}, ids)
    with pytest.raises(CellSegError, match=message):
        find_test_images(tmp_path)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "empty folder"])
def test_a_source_without_images_is_refused(tmp_path, make):
    make(tmp_path / "images")
    with pytest.raises(CellSegError, match=r"images: (there is no such file or folder|holds no .tif)"):
        list_images(tmp_path / "images", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("{", "is not JSON", id="not JSON"),
        pytest.param({"images": []}, "is not a JSON list", id="an object"),
        pytest.param(["a.tif"], "is not a JSON list", id="names alone"),
        pytest.param([{"file_name": "a.tif"}], "is not a JSON list", id="no id"),
        pytest.param([{"file_name": "a.tif", "id": "1"}], "whole-number id", id="text id"),
        pytest.param(
            [{"file_name": "x//a.tif", "id": 1}], "is not a plain file name", id="a path with more than it needs"
        ),
        pytest.param([{"file_name": "../a.tif", "id": 1}], "is not a plain file name", id="outside of the folder"),
        pytest.param([{"file_name": "x/../../a.tif", "id": 1}], "is not a plain file name", id="outside by a detour"),
        pytest.param([{"file_name": "/a.tif", "id": 1}], "is not a plain file name", id="an absolute path"),
        pytest.param([{"file_name": "..", "id": 1}], "is not a plain file name", id="the folder above"),
        pytest.param([{"file_name": "", "id": 1}], "is not a plain file name", id="no name"),
        pytest.param([{"file_name": "a.tif", "id": True}], "whole-number id", id="true for an id"),
        pytest.param([{"file_name": ["a"], "id": 1}], "is not a plain file name", id="a list for a name"),
        pytest.param(
            [{"file_name": "a.tif", "id": 1}, {"file_name": "a.tif", "id": 2}],
            "the file name 'a.tif' twice",
            id="name twice",
        ),
        pytest.param(
            [{"file_name": "a.tif", "id": 1}, {"file_name": "b.tif", "id": 1}], "the id 1 twice", id="id twice"
        ),
        pytest.param([{"file_name": "a.tif", "id": 1, "height": "tall", "width": 5}], "height", id="height in words"),
        pytest.param([{"file_name": "a.tif", "id": 1, "height": [6], "width": [8]}], "height", id="height in a list"),
    ],
)
def test_id_files_of_another_form_are_refused(tmp_path, content, message):
    path = ids_of(tmp_path, content)
    with pytest.raises(CellSegError) as caught:
        read_image_ids(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_missing_id_file_is_refused(tmp_path):
    with pytest.raises(CellSegError, match=r"ids\.json: cannot be read \(No such file or directory\)"):
        read_image_ids(tmp_path / "ids.json")


def test_hidden_folders_are_no_samples(tmp_path):
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "train" / "a").mkdir()
    samples, unknown = find_samples(tmp_path)
    assert ([sample.id for sample in samples], unknown) == (["a"], [])
