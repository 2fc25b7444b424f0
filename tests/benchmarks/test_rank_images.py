"""The simulation of ``rank`` in its quick form: what is trained on what, not which order is better."""

import json

import pytest
from cropped import write_corners
from tables import read_tables


@pytest.fixture(scope="module")
def few(sample_root, tmp_path_factory):
    """Four small labelled images, and one test image with its ground truth."""
    root = tmp_path_factory.mktemp("few")
    write_corners(sample_root, root, count=4, side=128)
    truth = json.loads((sample_root / "test_gt.json").read_text())
    image = truth["images"][0]
    truth["images"] = [image]
    truth["annotations"] = [cell for cell in truth["annotations"] if cell["image_id"] == image["id"]]
    (root / "test_release").mkdir()
    (root / "test_release" / image["file_name"]).symlink_to(sample_root / "test_release" / image["file_name"])
    (root / "test_gt.json").write_text(json.dumps(truth))
    return root


def test_both_arms_begin_alike_and_a_second_run_trains_nothing(run_tool, few, tmp_path):
    words = ("rank", "--quick", "--data", few, "--folder", tmp_path / "work")
    done = run_tool("benchmark", *words)
    assert done.returncode == 0, done.stderr
    rows = read_tables(done.stdout)["Images in the order of rank against random order"]
    assert [row["labelled images"] for row in rows] == ["2", "3"]
    assert rows[0]["ranked"] == rows[0]["random"] and rows[0]["ranked - random"].startswith("0.0 ")
    results = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "work" / "results").glob("*.json")}
    assert set(results) == {"seed1_start", "seed1_ranked1", "seed1_random1"}
    start = results["seed1_start"]["images"]
    for arm in ("ranked", "random"):
        assert results[f"seed1_{arm}1"]["images"][:2] == start and len(set(results[f"seed1_{arm}1"]["images"])) == 3
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "models").rglob("model_final.pth")}
    assert len(models) == 3
    assert run_tool("benchmark", *words).stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in models} == models


def test_what_cannot_be_simulated_is_one_line(run_tool, few, sample_root, tmp_path):
    done = run_tool("benchmark", "rank", "--data", few, "--folder", tmp_path / "work")
    assert done.returncode == 2 and "has 4 labelled images, 30 are needed" in done.stderr
    (tmp_path / "train").symlink_to(few / "train")
    done = run_tool("benchmark", "rank", "--quick", "--data", tmp_path, "--folder", tmp_path / "work")
    assert done.returncode == 2 and "has no test_release/ with test_gt.json" in done.stderr
