"""Which image a name means, in a dataset and in other results."""

import json
import re
from pathlib import Path

import pytest

from cellseg_d2.cells.coco_input import read_pair
from cellseg_d2.cells.image_names import NamedImages, Names, common_ids
from cellseg_d2.errors import CellSegError

SIZE = (20, 30)
SOURCE = Path("gt.json")


@pytest.mark.parametrize(
    ("known", "name", "meant"),
    [
        (["a.tif", "b.tif"], "b.tif", [1]),
        (["a.tif", "b.tif"], "c.tif", []),
        (["images/a.tif", "images/b.tif"], "b.tif", [1]),
        (["a.tif", "b.tif"], "plate/b.tif", [1]),
        (["x/a.tif", "y/a.tif"], "y/a.tif", [1]),
        (["x/a.tif", "y/a.tif"], "z/a.tif", []),
        (["x/a.tif", "y/a.tif"], "a.tif", [0, 1]),
        (["x/a.tif", "a.tif"], "a.tif", [1]),
        (["a.png", "b.png"], "b.ome.tif", [1]),
        (["a.png", "a.tif"], "a.tif", [1]),
        (["ba.tif"], "a.tif", []),
    ],
)
def test_names_agree_but_for_folders_that_only_one_states_and_suffixes(known, name, meant):
    assert Names(known).find(name) == meant


def records(*named):
    return [{"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for name, number in named]


def among(entries, *named):
    return NamedImages(Path("image_ids.json"), entries).among(records(*named), SOURCE)


def test_a_name_counts_and_not_an_id():
    ids = among([("b.tif", 1, SIZE), ("c.tif", 2, None)], ("a.tif", 1), ("b.tif", 2), ("c.tif", 9))
    assert [ids.find(raw) for raw in (1, "1", 2, None, [])] == [2, 2, 9, None, None]
    with pytest.raises(CellSegError, match=r"image_ids\.json: lacks the image 9, of which the results beside it are"):
        ids.find(9)


def test_ids_count_where_the_dataset_has_no_names_or_one_name_for_all():
    assert among([("b.tif", 4, SIZE)], ("3", 3), ("4", 4)).find(4) == 4
    assert among([("s1/image.tif", 4, SIZE)], ("image.tif", 3), ("image.tif", 4)).find(4) == 4


@pytest.mark.parametrize(
    ("entries", "named", "message"),
    [
        ([("x.tif", 1, SIZE)], [("a.tif", 1)], "'x.tif', which gt.json does not list"),
        ([("a.tif", 1, (20, 31))], [("a.tif", 1)], "'a.tif' is 20 x 31, and 20 x 30 in gt.json"),
        ([("image.tif", 1, SIZE)], [("s1/image.tif", 1), ("s2/image.tif", 2)], "may be 's1/image.tif' or 's2/image"),
        ([("s1/a.tif", 1, SIZE), ("s2/a.tif", 2, SIZE)], [("a.tif", 1)], "'s1/a.tif' and 's2/a.tif' are both 'a.tif'"),
    ],
    ids=["another name", "another size", "several", "twice"],
)
def test_what_contradicts_is_refused_in_one_line(entries, named, message):
    with pytest.raises(CellSegError, match=re.escape(message)) as refused:
        among(entries, *named)
    assert "\n" not in str(refused.value)


def test_sizes_come_from_beside_the_results_where_the_dataset_has_none(tmp_path):
    truth = {"images": [{"id": 5, "file_name": "a.tif"}], "annotations": [], "categories": [{"id": 1}]}
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    results = write(tmp_path / "out", [("a.tif", 1, 30)])
    results.write_text("[]")
    dataset, _ = read_pair(tmp_path / "gt.json", results)
    assert [(image["height"], image["width"]) for image in dataset["images"]] == [SIZE]
    assert NamedImages.beside(results).among(dataset["images"], SOURCE).find(1) == 5


def write(folder, entries):
    """Where results with this file beside them would be."""
    folder.mkdir()
    if entries is not None:
        stated = [{"file_name": name, "id": number, "height": SIZE[0], "width": side} for name, number, side in entries]
        (folder / "image_ids.json").write_text(json.dumps(stated))
    return folder / "test-results.json"


def test_several_results_share_images_by_name_and_keep_the_first_ones_ids(tmp_path):
    first = write(tmp_path / "a", [("a.tif", 1, 30), ("b.tif", 5, 30)])
    second = write(tmp_path / "b", [("c.tif", 1, 30), ("b.tif", 2, 30), ("d.tif", 6, 30)])
    named, entries = common_ids([first, second])
    assert [ids.find(1) for ids in named] == [1, 7]
    assert [ids.find(raw) for ids, raw in zip(named, (5, 2))] == [5, 5]
    assert [(name, number) for name, number, _ in entries] == [("a.tif", 1), ("b.tif", 5), ("c.tif", 7), ("d.tif", 6)]


@pytest.mark.parametrize(
    ("second", "third", "message"),
    [
        ([("a.tif", 1, 31)], [], "'a.tif' is 20 x 31, and 20 x 30 in"),
        ([("x/a.tif", 1, 30), ("y/a.tif", 2, 30)], [], "'y/a.tif' may be another image too than 'a.tif'"),
        ([("b.tif", 1, 30)], None, "its image 1 is another one in the other results, and no image_ids.json beside"),
    ],
    ids=["another size", "twice", "ids alone"],
)
def test_results_that_contradict_each_other_are_refused(second, third, message, tmp_path):
    paths = [write(tmp_path / "a", [("a.tif", 1, 30)]), write(tmp_path / "b", second), write(tmp_path / "c", third)]
    with pytest.raises(CellSegError, match=re.escape(message)):
        common_ids(paths)


def test_ids_alone_count_where_only_some_results_name_their_images(tmp_path):
    paths = [write(tmp_path / "a", [("a.tif", 1, 30)]), write(tmp_path / "b", [("a.tif", 1, 30)])]
    assert common_ids([*paths, write(tmp_path / "c", None)])[1] is None
