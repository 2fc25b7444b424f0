"""The table on reading COCO files: what it holds, not how fast anything is."""

import json

from tables import is_ratio, read_tables

from benchmarks.coco_input import read_json_alone, read_with_pycocotools, report, write
from cellseg_d2.cells.coco_input import read_pair


def test_the_table_holds_ratios_of_what_is_printed():
    rows = read_tables(report(repeats=1, images=2, cells=9))["Reading COCO files"]
    assert [row["work"] for row in rows] == ["json.load", "pycocotools", "this loader"]
    assert all(is_ratio(row["times json.load"], row["median s"], rows[0]["median s"]) for row in rows)


def test_all_read_what_was_written(tmp_path):
    files = write(tmp_path, images=3, cells=9)
    truth, results = read_pair(*files)
    given = [json.loads(path.read_text()) for path in files]
    assert len(truth["annotations"]) == len(given[0]["annotations"]) >= 27
    assert len(results) == len(given[1]) == 27
    assert {record["image_id"] for record in [*truth["annotations"], *results]} == {1, 2, 3}
    read_json_alone(*files)
    read_with_pycocotools(*files)
