"""tools/evaluate.py as a user runs it, on results of whatever tool."""

import csv
import json

import pytest
from coco_cases import NAMES, draw_case

from cellseg_d2.evaluation.thresholds import read_thresholds
from cellseg_d2.export.record import Record


@pytest.fixture
def files(tmp_path):
    truth, results = draw_case(3, cells=40, side=100)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def run(run_tool, folder, *options):
    return run_tool(
        "evaluate", "--ground-truth", folder / "gt.json", "--predictions", folder / "results.json", *options
    )


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def line_of(text, name):
    return next(line.split() for line in text.splitlines() if line.startswith(f"{name} "))


def test_the_printed_table_and_the_files_hold_the_same_numbers(files, run_tool):
    done = run(run_tool, files, "--output", files / "out")
    assert (done.returncode, done.stderr) == (0, "")
    out = files / "out"
    assert {path.name for path in out.iterdir()} == {
        *("metrics.json", "metrics.csv", "counts.csv", "confusion.csv", "thresholds.json")
    }
    assert str(files) not in done.stdout + "".join(path.read_text() for path in out.iterdir())
    assert "predictions that score 0.5 or more, but for those\nthat better ones hide" in done.stdout
    metrics = json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail)  # no NaN, which is not JSON
    rows = {(row["group"], row["class"], row["metric"]): row["value"] for row in read(out / "metrics.csv")}
    for name in ("AP50", "AP"):
        assert line_of(done.stdout, name)[1:] == [f"{metrics[task][name]:.2f}" for task in ("segm", "bbox")]
        assert float(rows["segm", "", name]) == pytest.approx(metrics["segm"][name], abs=1e-5)
    for name in ("mPQ+", "AJI", "AJI+", "PQ_monusac", "mPQ_pannuke", "F1@0.75", "detection_F1"):
        assert line_of(done.stdout, name)[1] == f"{metrics['cells']['summary'][name]:.2f}"
        assert float(rows["cells", "", name]) == pytest.approx(metrics["cells"]["summary"][name], abs=1e-5)
    assert metrics["cells"]["classes"]["never"]["PQ"] is None and rows["cells", "never", "PQ"] == ""
    assert line_of(done.stdout, "poor outline")[-1] == f"{metrics['errors']['poor outline']['AP50_cost']:.2f}"

    counts = read(out / "counts.csv")
    assert [(row["image"], row["class"]) for row in counts] == [
        (image, name) for image in ("4.png", "9.png", "12.png") for name in NAMES
    ]
    for name in NAMES:
        for column in ("cells", "predictions", "hit", "spurious", "missed"):
            total = sum(int(row[column]) for row in counts if row["class"] == name)
            assert total == metrics["cells"]["classes"][name][column]
    confusion = read(out / "confusion.csv")
    assert [row.pop("cell") for row in confusion] == [*NAMES, "(spurious)"] == metrics["cells"]["confusion"]["rows"]
    assert [list(map(int, row.values())) for row in confusion] == metrics["cells"]["confusion"]["counts"]
    assert set(read_thresholds(out / "thresholds.json", NAMES)) == {"A", "B"}


def test_a_score_threshold_is_for_the_metrics_of_cells_alone(files, run_tool):
    metrics = {}
    for score in ("0", "0.8"):
        assert run(run_tool, files, "--output", files / score, "--score-threshold", score).returncode == 0
        metrics[score] = json.loads((files / score / "metrics.json").read_text())
    low, high = metrics["0"], metrics["0.8"]
    assert low["segm"] == high["segm"] and low["errors"] == high["errors"]
    assert low["cells"]["summary"]["predictions"] > high["cells"]["summary"]["predictions"] > 0


def test_results_of_predict_are_counted_from_the_scores_that_it_chose(files, run_tool):
    Record(list(NAMES), {"min_score": 0.9, "min_score_of_class": {NAMES[0]: 0.2}, "method": "none"}).write(files)
    done = run(run_tool, files, "--output", files / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"score 0.2 ({NAMES[0]}), 0.9 ({NAMES[1]})" in done.stdout
    results = json.loads((files / "results.json").read_text())
    counts = json.loads((files / "out" / "metrics.json").read_text())["cells"]["classes"]
    for number, least in ((1, 0.2), (2, 0.9)):
        scored = sum(own["category_id"] == number and own["score"] >= least for own in results)
        assert 0 < counts[NAMES[number - 1]]["predictions"] <= scored
        other = sum(own["category_id"] == number and own["score"] >= 1.1 - least for own in results)
        assert (counts[NAMES[number - 1]]["predictions"] > other) == (least == 0.2)


def test_boxes_alone_are_scored_for_ap(files, run_tool):
    results = json.loads((files / "results.json").read_text())
    for own in results:
        del own["segmentation"]
    (files / "results.json").write_text(json.dumps(results))
    done = run(run_tool, files, "--output", files / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "bbox" and "no metrics of cells" in done.stdout
    assert {path.name for path in (files / "out").iterdir()} == {"metrics.json", "metrics.csv"}


def test_no_results_are_scored_too(files, run_tool):
    (files / "results.json").write_text("[]")
    done = run(run_tool, files, "--output", files / "out")
    assert (done.returncode, done.stderr) == (0, "")
    metrics = json.loads((files / "out" / "metrics.json").read_text())
    assert metrics["segm"]["AP50"] == metrics["cells"]["summary"]["mPQ+"] == 0
    assert metrics["errors"]["missed"]["AP50_cost"] == 100
    assert read_thresholds(files / "out" / "thresholds.json", NAMES) == {}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        pytest.param('{"a": 1}', "results.json: is no list of COCO results", id="no list"),
        pytest.param('[{"image_id": 4, "category_id": 1, "score": 1}]', "has neither a mask nor a box", id="bare"),
        pytest.param(
            '[{"image_id": 4, "category_id": 8, "score": 1, "bbox": [0, 0, 1, 1], "segmentation": '
            '{"size": [100, 100], "counts": "0T3"}}]',
            "result 0, counted from 0, has the category_id 8, which ",
            id="unknown class",
        ),
    ],
)
def test_bad_results_are_one_line(files, run_tool, results, message):
    (files / "results.json").write_text(results)
    done = run(run_tool, files)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and message in line


def test_it_needs_neither_torch_nor_detectron2(run_tool, repo_root, tmp_path):
    for name in ("torch", "detectron2"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    done = run_tool("evaluate", "--help", PYTHONPATH=f"{tmp_path}:{repo_root}")
    assert done.returncode == 0, done.stderr
    assert "--score-threshold" in done.stdout
