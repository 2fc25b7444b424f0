"""Which image an annotation file belongs to."""

import pytest

from cellseg_d2.annotations.pairs import all_classes, find_pairs, list_files
from cellseg_d2.errors import CellSegError


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def pairs(root, depth=1):
    found = find_pairs(root, lambda path: path.stem if path.suffix == ".ann" else None, "*.ann file", depth)
    return {pair.id: (pair.image.relative_to(root).as_posix(), pair.annotations.name) for pair in found.pairs}


@pytest.mark.parametrize(
    ("files", "depth", "expected"),
    [
        (["a.tif", "a.ann", "b.png", "b.ann"], 1, {"a": ("a.tif", "a.ann"), "b": ("b.png", "b.ann")}),
        (["images/a.tif", "ann/a.ann"], 1, {"a": ("images/a.tif", "a.ann")}),
        (["a.tif", "ann/a.ann"], 1, {"a": ("a.tif", "a.ann")}),
        (["images/a.tif", "labels/deep/a.ann"], 2, {"a": ("images/a.tif", "a.ann")}),
        (["a.ome.tif", "a.ann"], 1, {"a": ("a.ome.tif", "a.ann")}),
        (["a.ome.tif", "a.ome.ann"], 1, {"a": ("a.ome.tif", "a.ome.ann")}),
        (["a.tif", "a.png", "a.png.ann"], 1, {"a": ("a.png", "a.png.ann")}),
        (["scan.zarr/.zattrs", "scan.zarr/0/.zarray", "scan.ann"], 1, {"scan": ("scan.zarr", "scan.ann")}),
        (["x/a.tif", "x/a.ann", "y/a.tif", "y/a.ann"], 1, {"x_a": ("x/a.tif", "a.ann"), "y_a": ("y/a.tif", "a.ann")}),
        (["Images/a.png", "Overlay/a.png", "Labels/a.ann"], 1, {"a": ("Images/a.png", "a.ann")}),
        (["a.tif", "a.ann", ".b.ann", "._a.tif"], 1, {"a": ("a.tif", "a.ann")}),
    ],
)
def test_the_image_of_a_file(tmp_path, files, depth, expected):
    make(tmp_path, *files)
    assert pairs(tmp_path, depth) == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"holds no \*\.ann file, nor does a folder in it; give the folder of these"),
        (["x/y/a.ann"], r"holds no \*\.ann file"),
        (["a.ann", "b.tif"], r"a\.ann: there is no image a beside it or in a folder beside its own; add it"),
        (["a.ann", "a.tif", "a.png"], r"a\.ann: its image may be .*a\.png or .*a\.tif; keep or rename one of the two"),
        (["x/a.tif", "y/a.tif", "a.ann"], r"a\.ann: its image may be .*x/a\.tif or .*y/a\.tif; keep or rename one"),
        (["a.tif", "a.ann", "x/a.ann"], r"a\.ann: is of image a, as .*a\.ann is; keep or rename one of the two"),
    ],
)
def test_what_is_not_clear_is_one_line(tmp_path, files, message):
    make(tmp_path, *files)
    with pytest.raises(CellSegError, match=message):
        pairs(tmp_path)
    with pytest.raises(CellSegError, match="nowhere: there is no such folder"):
        list_files(tmp_path / "nowhere")


def test_images_that_are_left_out_are_named(tmp_path):
    make(tmp_path, "a.ann", "a.tif", "sub/b.tif", "c.txt")
    found = find_pairs(tmp_path, lambda path: path.stem if path.suffix == ".ann" else None, "*.ann file")
    assert found.notes == [f"{tmp_path}: images without annotations, left out: 1 (sub/b.tif)"]


def test_classes_are_sorted_and_files_that_cannot_be_read_are_passed_over(tmp_path):
    def classes_in(path):
        if path.name == "bad":
            raise CellSegError("bad: is damaged")
        return path.name.split()

    paths = [tmp_path / name for name in ("b 10", "bad", "2 a")]
    assert all_classes(paths, classes_in) == ("2", "10", "a", "b")
    assert all_classes([], classes_in) == ()
    with pytest.raises(CellSegError, match="bad: is damaged"):
        all_classes(paths[1:2], classes_in)
