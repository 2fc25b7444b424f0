"""Errors are planted where the benchmark says, and found in lists by place and kind; its quick form runs."""

from collections import Counter

import numpy as np
import pytest
from cropped import write_corners
from tables import read_tables

from benchmarks.audit import locate
from benchmarks.planted import GAP, KINDS, Planted, plant
from cellseg_d2.images.tiff import read_label_map


def maps_of(root, image):
    folder = root / "train" / image
    return {int(path.stem[5:]): read_label_map(path) for path in sorted(folder.glob("class*.tif"))}


def cells_of(maps):
    """Class and pixels of each cell."""
    return {
        (number, tuple(np.flatnonzero(labels == label).tolist()))
        for number, labels in maps.items()
        for label in np.unique(labels)[1:]
    }


@pytest.fixture(scope="module")
def planted(sample_root, tmp_path_factory):
    output = tmp_path_factory.mktemp("planted") / "data"
    return output, plant(sample_root, output, share=0.05, seed=0, images=20)


def test_each_error_is_in_the_labels_and_nothing_else_is(planted, sample_root):
    output, errors = planted
    assert {error.kind for error in errors} == set(KINDS)
    counts = Counter(error.kind for error in errors)
    assert max(counts.values()) - min(counts.values()) <= 1
    total = 0
    for folder in sorted((output / "train").iterdir()):
        before, after = cells_of(maps_of(sample_root, folder.name)), cells_of(maps_of(output, folder.name))
        total += len(before)
        mine = Counter(error.kind for error in errors if error.image == folder.name)
        assert len(before - after) == mine["dropped"] + mine["swapped"] + 2 * mine["merged"]
        assert len(after - before) == mine["swapped"] + mine["merged"]
        assert (folder / "image.tif").resolve() == (sample_root / "train" / folder.name / "image.tif").resolve()
        size = maps_of(sample_root, folder.name).popitem()[1].shape
        gone = {frozenset(pixels): number for number, pixels in before - after}
        swapped = [pixels for number, pixels in after - before if frozenset(pixels) in gone]
        assert len(swapped) == mine["swapped"]
        for number, pixels in after - before:
            if frozenset(pixels) not in gone:  # merged: two cells of that class, and at most the gap between them
                parts = [part for part, kind in gone.items() if kind == number and part <= set(pixels)]
                assert len(parts) == 2
                assert len(pixels) <= sum(map(len, parts)) + GAP * 2 * max(size)
    assert len(errors) == round(0.05 * total)


def test_the_same_seed_plants_the_same(planted, sample_root, tmp_path):
    assert plant(sample_root, tmp_path / "again", share=0.05, seed=0, images=20) == planted[1]
    assert plant(sample_root, tmp_path / "other", share=0.05, seed=1, images=20) != planted[1]


def test_an_error_is_found_by_image_kind_and_place():
    errors = [Planted("a", "dropped", (10, 10, 20, 20)), Planted("a", "merged", (30, 10, 50, 20))]

    def doubt(kind, x, image="a"):
        return {"image": image, "kind": kind, "x": x, "y": 10, "width": 10, "height": 10}

    listed = [doubt("missing", 10, "b"), doubt("spurious", 10), doubt("missing", 12), doubt("missing", 10)]
    found = locate(errors, [*listed, {**doubt("merged", 30), "width": 20}])
    assert found.places == {errors[0]: 2, errors[1]: 4}
    assert [found.among(count) for count in (2, 3, 5)] == [0, 1, 2]
    assert found.among(5, "merged") == 1 and found.length == 5


def test_the_quick_form_runs_and_goes_on_with_what_is_there(run_tool, sample_root, tmp_path):
    write_corners(sample_root, tmp_path / "few", count=4, side=128)
    words = ("audit", "--quick", "--data", tmp_path / "few", "--folder", tmp_path / "work")
    done = run_tool("benchmark", *words)
    assert done.returncode == 0, done.stderr
    tables = read_tables(done.stdout)
    assert list(tables) == ["Planted label errors in the list", "By kind"]
    by_kind = tables["By kind"]
    assert len(tables["Planted label errors in the list"]) == 2 and len(by_kind) == 2 * len(KINDS)
    assert by_kind[1]["model: kind"] == "`nuclei`, one class, all images: swapped" and by_kind[1]["all"] == "0"
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "models").rglob("model_final.pth")}
    assert len(models) == 1
    assert run_tool("benchmark", *words).stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in models} == models
