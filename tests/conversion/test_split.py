"""The split by image: the same whatever the order, with each class in both parts."""

import logging
from itertools import product

import pytest
from drawing import drawn
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.conversion.split import SplitFile, read_split_file, split_images, stratified_split
from cellseg_d2.errors import CellSegError

ids = st.text("abcdef012", min_size=1, max_size=4)
images = st.dictionaries(ids, st.dictionaries(st.integers(1, 4), st.integers(0, 50)), min_size=1, max_size=14)
fractions = st.floats(0, 1, exclude_max=True)


def holders(cells):
    """Class -> the images that have cells of it."""
    classes = {number for counts in cells.values() for number in counts}
    found = {number: {image for image, counts in cells.items() if counts.get(number, 0)} for number in classes}
    return {number: having for number, having in found.items() if having}


def complete(val, cells):
    """Classes that are in both parts, or in training if one image has them."""
    return {
        number
        for number, having in holders(cells).items()
        if (0 < len(having & val) < len(having) if len(having) > 1 else not having & val)
    }


@drawn
@given(images, fractions, st.integers(0, 5))
def test_each_image_is_in_one_part(cells, fraction, seed):
    train, val = stratified_split(cells, fraction, seed)
    assert sorted(train + val) == sorted(cells)
    assert train == sorted(train)
    assert val == sorted(val)
    assert train


@drawn
@given(images, fractions, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_has_no_part_in_it(cells, fraction, seed, random):
    order = list(cells)
    random.shuffle(order)
    shuffled = {image: dict(reversed(cells[image].items())) for image in order}
    assert stratified_split(shuffled, fraction, seed) == stratified_split(cells, fraction, seed)


@drawn
@given(images, images, fractions, st.integers(0, 5))
def test_images_that_are_fixed_stay_and_the_others_are_dealt(cells, more, fraction, seed):
    train, val = stratified_split(cells, fraction, seed)
    fixed = dict.fromkeys(train, "train") | dict.fromkeys(val, "val")
    together = more | cells
    new_train, new_val = stratified_split(together, fraction, seed, fixed)
    assert sorted(new_train + new_val) == sorted(together)
    assert set(train) <= set(new_train)
    assert set(val) <= set(new_val)
    assert stratified_split(cells, fraction, seed, fixed) == (train, val)


@drawn
@given(images, fractions, st.integers(0, 5))
def test_no_single_move_would_bring_a_class_into_both_parts(cells, fraction, seed):
    _, val = stratified_split(cells, fraction, seed)
    if fraction == 0 or len(cells) < 2:
        assert val == []
        return
    now = complete(set(val), cells)
    assert not [image for image in cells if complete(set(val) ^ {image}, cells) > now]
    for having in holders(cells).values():
        if len(having) == 1:
            assert not having & set(val)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.9])
def test_a_class_of_two_images_is_in_both_parts_as_are_the_others(seed, fraction):
    cells = {f"image{number:02}": {1: 30, 2: number % 3} for number in range(30)}
    cells["image07"][3] = cells["image19"][3] = 1  # rare
    _, val = stratified_split(cells, fraction, seed)
    assert complete(set(val), cells) == {1, 2, 3}
    assert abs(len(val) - 30 * fraction) <= 2


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param({"a": (1, 2), "b": (1, 2)}, id="two images with both classes"),
        pytest.param({"a": (1, 2), "b": (1,), "c": (2,)}, id="one image shares"),
        pytest.param({"a": (1, 2), "b": (1, 3), "c": (2,), "d": (3,)}, id="a chain"),
        pytest.param({"a": (1,), "b": (1, 2), "c": (2, 3), "d": (3, 4), "e": (4,)}, id="a longer chain"),
        pytest.param({"a": (1, 2, 3), "b": (1,), "c": (2,), "d": (3,)}, id="a star"),
    ],
)
def test_every_class_is_in_both_parts_where_that_can_be(cells, caplog):
    cells = {image: dict.fromkeys(numbers, 5) for image, numbers in cells.items()}
    for seed, fraction in product(range(8), (0.1, 0.3, 0.6)):
        _, val = stratified_split(cells, fraction, seed)
        assert complete(set(val), cells) == set(holders(cells))
    assert caplog.records == []


def test_a_class_of_one_image_goes_to_training_with_a_warning(caplog):
    cells = {"a": {1: 5}, "b": {1: 3}, "c": {1: 9, 2: 1}, "d": {1: 2}}
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        train, _ = stratified_split(cells, 0.5, 0)
    assert "c" in train
    assert [record.getMessage() for record in caplog.records] == [
        "class 2 is in one image only (c); it goes to training"
    ]


@pytest.mark.parametrize(
    ("cells", "fraction"),
    [
        pytest.param({"a": {1: 5}, "b": {1: 5}}, 0, id="fraction 0"),
        pytest.param({"a": {1: 5}}, 0.5, id="one image"),
    ],
)
def test_there_may_be_no_validation_part(cells, fraction):
    assert stratified_split(cells, fraction, 0) == (sorted(cells), [])


def test_images_without_a_cell_are_split_too():
    train, val = stratified_split({str(number): {} for number in range(10)}, 0.3, 0)
    assert (len(train), len(val)) == (7, 3)


def test_another_seed_gives_another_split():
    cells = {str(number): {1: 1} for number in range(40)}
    assert len({tuple(stratified_split(cells, 0.25, seed)[1]) for seed in range(10)}) == 10


def write_csv(folder, text):
    (folder / "split.csv").write_text(text)
    return folder / "split.csv"


CELLS_BY_IMAGE = {name: {1: 5} for name in "abcdef"}


def test_a_users_split_is_taken_as_it_is(tmp_path):
    path = write_csv(
        tmp_path, "id,split\n" + "".join(f"{name},{'val' if name in 'be' else 'train'}\n" for name in "fedcba")
    )
    own = read_split_file(path, CELLS_BY_IMAGE)
    assert split_images(CELLS_BY_IMAGE, 0.2, 42, own) == (["a", "c", "d", "f"], ["b", "e"])


@drawn
@given(st.lists(st.sampled_from("xyz"), min_size=6, max_size=6), st.integers(0, 9))
def test_a_patient_is_never_on_both_sides(groups, seed):
    own = SplitFile({}, dict(zip("abcdef", groups)))
    train, val = split_images(CELLS_BY_IMAGE, 0.4, seed, own)
    assert sorted(train + val) == list("abcdef")
    assert not {own.groups[name] for name in train} & {own.groups[name] for name in val}
    assert bool(val) == (len(set(groups)) > 1)


def test_a_file_from_a_spreadsheet_is_read(tmp_path):
    (tmp_path / "split.csv").write_bytes("\ufeffid,split,group\r\na, train ,p1\r\nb,val,p2\r\n".encode())
    own = read_split_file(tmp_path / "split.csv", ["a", "b"])
    assert own == SplitFile({"a": "train", "b": "val"}, {"a": "p1", "b": "p2"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,part\na,train\n", "needs a header with the columns id,split"),
        ("id,split\n", "needs a header with the columns id,split"),
        ("id,split\na,train\nb,test\n", "write train or val in every row"),
        ("id,split\na,train\nb,\n", "write train or val in every row"),
        ("id,split\na,\nb,\n", "every row needs a group"),
        ("id,split\na,train\n", "'b' has no row"),
        ("id,split\na,train\nb,val\nc,val\n", "'c' is no image of the input"),
        ("id,split\na,train\nb,val\na,val\n", "'a' is there twice"),
        ("id,split,group\na,train,p1\nb,val,p1\n", "group 'p1' is in train and in val"),
    ],
    ids=["header", "no rows", "value", "half empty", "no group", "missing", "unknown", "twice", "group"],
)
def test_a_split_that_does_not_fit_is_named(text, message, tmp_path):
    path = write_csv(tmp_path, text)
    with pytest.raises(CellSegError) as caught:
        read_split_file(path, ["a", "b"])
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_split_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CellSegError, match=r"nowhere.csv: cannot be read"):
        read_split_file(tmp_path / "nowhere.csv", ["a"])
