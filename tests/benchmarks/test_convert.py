"""The works that the conversion benchmark compares do the same work; how fast they are no test says."""

import json

import numpy as np
import pytest
import tifffile
from drawing import read_folder
from pycocotools import mask as mask_util

from benchmarks.convert import annotate_by_loop, annotate_tiles, convert_again, images_of, write_floor
from benchmarks.formats import FORMATS
from benchmarks.synthetic import dense_cells, write_sample
from benchmarks.table import Table, ratio
from benchmarks.timing import Timing, peak_memory, time_in_turn
from cellseg_d2.errors import CellSegError


@pytest.fixture
def dense():
    return dense_cells(side=120, count=20, classes=3, radius=(4, 9), seed=1)


def test_dense_cells_are_all_there_apart_and_drawn_from_the_seed(dense):
    image, maps = dense
    assert (image.shape, image.dtype, len(maps)) == ((120, 120, 3), np.uint8, 3)
    assert sorted(value for labels in maps for value in np.unique(labels)[1:]) == list(range(1, 21))
    assert np.stack([labels > 0 for labels in maps]).sum(axis=0).max() == 1
    assert image[np.stack(maps).any(axis=0)].mean() < image[~np.stack(maps).any(axis=0)].mean() - 50
    again = dense_cells(side=120, count=20, classes=3, radius=(4, 9), seed=1)
    assert np.array_equal(again[0], image)
    assert not np.array_equal(dense_cells(120, 20, 3, (4, 9), seed=2)[0], image)


def test_the_loop_and_the_tiles_hold_the_same_cells(dense):
    _, maps = dense
    (tile,) = annotate_tiles(maps)
    loop = annotate_by_loop(maps)
    keys = ("category_id", "bbox", "area")
    assert [[a[key] for key in keys] for a in tile] == [[a[key] for key in keys] for a in loop]
    assert all(
        np.array_equal(mask_util.decode(a["segmentation"]), mask_util.decode(b["segmentation"]))
        for a, b in zip(tile, loop)
    )


def test_the_floor_writes_the_same_images(dense, tmp_path):
    image, maps = dense
    for name in ("a", "b", "c"):
        write_sample(tmp_path / "in", name, image, maps)
    (tmp_path / "in" / "test_release").mkdir()
    tifffile.imwrite(tmp_path / "in" / "test_release" / "t.tif", image)
    convert_again(tmp_path / "in", tmp_path / "out")
    write_floor(tmp_path / "in", images_of(tmp_path / "out"), tmp_path / "floor")
    written = {name: content for name, content in read_folder(tmp_path / "out").items() if not name.endswith(".json")}
    assert read_folder(tmp_path / "floor") == written
    assert {name.split("/")[0] for name in written} == {"train", "val", "val_whole", "test"}
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["counts"]["test"] == {"images": 1}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_lossless(name, dense, tmp_path):
    form = FORMATS[name]
    path = tmp_path / f"tile{form.suffix}"
    path.write_bytes(form.encode(dense[0]))
    assert np.array_equal(form.decode(path), dense[0])


def test_works_run_in_turn_after_a_warm_up():
    calls = []
    timings = time_in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert calls == ["a", "b"] * 3
    assert [len(timing.seconds) for timing in timings.values()] == [2, 2]
    time_in_turn({"a": lambda: calls.append("a")}, repeats=1, warm_up=False)
    assert len(calls) == 7


def test_best_median_and_spread():
    timing = Timing((3.0, 1.0, 2.0, 4.0))
    assert (timing.best, timing.median, timing.spread) == (1.0, 2.5, 4.0)


def test_peak_memory_is_that_of_the_work_alone():
    np.ones(30_000_000).sum()  # what this process takes does not count
    small, large = (peak_memory(np.ones, count) for count in (1000, 10_000_000))
    assert small.peak < large.before + 40e6
    assert 75e6 < large.peak - large.before < 120e6


def test_an_error_in_the_measured_process_arrives(tmp_path):
    with pytest.raises(CellSegError, match="there is no such folder"):
        peak_memory(convert_again, tmp_path / "nowhere", tmp_path / "out")


def test_a_table_is_markdown():
    table = Table("Title", "Text.", ["work", "s"], [["a", "1"]])
    assert table.markdown() == "### Title\n\nText.\n\n| work | s |\n| --- | ---: |\n| a | 1 |\n"


@pytest.mark.parametrize(("value", "base", "text"), [(1, 1, "1.00"), (3, 2, "1.50"), (250, 2, "125"), (1, 3, "0.33")])
def test_ratios_have_two_digits_below_100(value, base, text):
    assert ratio(value, base) == text
