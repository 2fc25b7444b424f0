"""The list of doubts: its order, and results that are found by the names of their images."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from cellseg_d2.cells.rle import column_runs
from cellseg_d2.conversion.untile import UntiledImage
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.audit import AuditedImage, doubts, with_results
from cellseg_d2.evaluation.overlap_table import Cells

SIZE = (20, 90)


def labels(*places):
    """Squares of 10 pixels that begin at these x."""
    drawn = np.zeros(SIZE, np.int32)
    for number, x in enumerate(places, start=1):
        drawn[5:15, x : x + 10] = number
    return drawn


def untiled(name, *places):
    runs = column_runs(labels(*places))[1]
    height, width = SIZE
    tile = (0, 0, width, height), Path(f"{name}.png")
    return UntiledImage(name, "val", SIZE, [tile], runs, np.zeros(len(runs), np.int64), np.zeros(len(runs), bool))


def predicted(*found):
    """Of (x, score)."""
    runs = column_runs(labels(*(x for x, _ in found)))[1]
    return Cells.from_runs(runs, np.ones(len(runs), np.int64), [score for _, score in found])


def test_the_worst_of_each_kind_comes_first_and_equal_scores_keep_the_order_of_the_images():
    first = AuditedImage.of(untiled("a", 0, 20), predicted((40, 0.6), (60, 0.9)))
    second = AuditedImage.of(untiled("b", 0), predicted((40, 0.9)))
    listed = [
        (doubt.rank, doubt.audited.image.name, doubt.found.kind, doubt.found.score, doubt.box[0])
        for doubt in doubts([first, second], 0.5)
    ]
    assert listed == [
        (1, "a", "spurious", 1.0, 0),
        (2, "a", "missing", 0.9, 60),
        (3, "a", "spurious", 1.0, 20),
        (4, "b", "missing", 0.9, 40),
        (5, "b", "spurious", 1.0, 0),
        (6, "a", "missing", 0.6, 40),
    ]


def test_without_classes_a_cell_of_another_class_is_no_doubt():
    image, cells = untiled("a", 0), predicted((0, 0.9))
    assert [doubt.found.kind for doubt in doubts([AuditedImage.of(image, cells)], 0.5)] == ["wrong class"]
    assert doubts([AuditedImage.of(image, cells, use_classes=False)], 0.5) == []


def write(folder, names, category=1):
    (rle,) = column_runs(labels(0))[1].rles()
    results = [
        {"image_id": number, "category_id": category, "score": 0.9, "segmentation": rle}
        for number, _ in enumerate(names, start=1)
    ]
    ids = [{"file_name": name, "id": number, "height": 20, "width": 90} for number, name in enumerate(names, start=1)]
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "image_ids.json").write_text(json.dumps(ids))
    return folder / "results.json"


def test_results_are_found_by_name_whatever_the_order_and_dots_in_names(tmp_path, caplog):
    images = [untiled("a.v1"), untiled("a.v2"), untiled("b")]
    with caplog.at_level(logging.WARNING):
        pairs = with_results(images, write(tmp_path, ["val_whole/b.png", "a.v2.tif"]), 1)
    assert [(image.name, len(cells)) for image, cells in pairs] == [("a.v2", 1), ("b", 1)]
    assert "no results of 1 of 3 images" in caplog.text


def test_results_of_other_images_or_classes_are_refused(tmp_path):
    with pytest.raises(CellSegError, match=r"'c\.png', which the dataset does not list"):
        with_results([untiled("a")], write(tmp_path, ["c.png"]), 1)
    with pytest.raises(CellSegError, match=r"a category that is not in 1\.\.1"):
        with_results([untiled("a")], write(tmp_path, ["a.png"], category=2), 1)
