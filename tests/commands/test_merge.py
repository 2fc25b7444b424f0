"""tools/merge_predictions.py as a user runs it: what it writes is what the next tool reads."""

import json

import numpy as np
import pytest
from drawing import discs

from cellseg_d2.cells.coco import annotate, dataset
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.files import write_json

SIZE = (64, 80)


@pytest.fixture
def files(tmp_path):
    """A truth, and two results files that show all of its cells with different scores, one also a cell too many."""
    rng = np.random.default_rng(0)
    annotations = annotate([LabelMap((1,), discs(rng, *SIZE, 6))], (0, 0, SIZE[1], SIZE[0]))
    image = {"id": 5, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
    write_json(tmp_path / "truth.json", dataset([image], [annotations], ["cell"]))
    corner = np.zeros(SIZE, np.int32)
    corner[:3, :3] = 1
    wrong = annotate([LabelMap((1,), corner)], (0, 0, SIZE[1], SIZE[0]))
    for name, cells, score in (("a", annotations, 0.5), ("b", annotations + wrong, 0.75)):
        keys = ("category_id", "bbox", "segmentation")
        results = [{"image_id": 5, "score": score, **{key: cell[key] for key in keys}} for cell in cells]
        write_json(tmp_path / f"{name}.json", results)
    return tmp_path


def test_merged_results_are_written_and_scored(run_tool, files):
    output = files / "merged.json"
    process = run_tool("merge_predictions", files / "a.json", files / "b.json", "--output", output)
    assert (process.returncode, process.stderr) == (0, "")
    count = len(json.loads((files / "a.json").read_text()))
    assert process.stdout == f"1 image: {count} + {count + 1} cells -> {count + 1}\nresults: {output}\n"
    assert [result["score"] for result in json.loads(output.read_text())] == [0.625] * count + [0.375]
    options = ("--weights", 3, 1, "--score-threshold", 0.2, "--class-agnostic", "--iou", 0.6)
    process = run_tool("merge_predictions", files / "a.json", files / "b.json", "--output", output, *options)
    assert process.returncode == 0, process.stderr
    assert [result["score"] for result in json.loads(output.read_text())] == [0.5625] * count
    process = run_tool("evaluate", "--ground-truth", files / "truth.json", "--predictions", output)
    assert process.returncode == 0, process.stderr
    assert next(line for line in process.stdout.splitlines() if line.startswith("AP50 ")).split() == [
        *("AP50", "100.00", "100.00")
    ]


def test_a_mistake_is_one_line(run_tool, files):
    process = run_tool(
        "merge_predictions", files / "a.json", files / "truth.json", "--output", files / "merged.json", "--iou", 0.5
    )
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: {files / 'truth.json'}: is no list of COCO results")
    assert not (files / "merged.json").exists()
