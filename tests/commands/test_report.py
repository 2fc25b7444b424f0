"""tools/report.py as a user runs it."""

import json

import pytest
from drawing import write_drawn_dataset
from pages import read_whole_page


@pytest.fixture
def root(tmp_path):
    write_drawn_dataset(tmp_path / "root", images=3)
    return tmp_path / "root"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"iteration": 19, "total_loss": 2.0, "segm/AP50": 30.0}) + "\n")
    return folder


def test_a_dataset_before_and_after_conversion(root, run_tool, tmp_path):
    options = ("--tile-size", 64, "--class-names", "a", "b", "--workers", 1)
    assert run_tool("convert_tifs", "--input", root, "--output", tmp_path / "new", *options).returncode == 0
    before = run_tool("report", "dataset", "--input", root, "--output", tmp_path / "before.html", *options)
    after = run_tool("report", "dataset", "--input", tmp_path / "new", "--output", tmp_path / "after.html")
    assert (before.returncode, before.stdout) == (0, f"report: {tmp_path / 'before.html'}\n")
    assert (after.returncode, after.stdout, after.stderr) == (0, f"report: {tmp_path / 'after.html'}\n", "")
    pages = [read_whole_page(tmp_path / f"{name}.html") for name in ("before", "after")]
    assert [row[:3] for row in pages[0].tables[0]] == [row[:3] for row in pages[1].tables[0]]
    assert pages[0].tables[1] == pages[1].tables[1]  # all distributions
    assert str(tmp_path) not in pages[0].source + pages[1].source


def test_trainings(run, run_tool, tmp_path):
    done = run_tool("report", "training", run, "--output", tmp_path / "out" / "page.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"report: {tmp_path / 'out' / 'page.html'}\n"
    page = read_whole_page(tmp_path / "out" / "page.html")
    assert page.tables[0][1][:3] == ["run", "20", "30.0 at 19"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["dataset", "--input", "nowhere"], "nowhere/train: there is no such folder", id="no dataset"),
        pytest.param(["dataset", "--input", "root", "--tile-size", "0"], "tile_size", id="bad option"),
        pytest.param(["training", "nowhere"], "nowhere/metrics.json: cannot be read", id="no training"),
        pytest.param(["training", "run", "run"], "run: is given twice", id="twice"),
        pytest.param(["training"], "the following arguments are required: RUN", id="no run"),
        pytest.param(["other"], "invalid choice: 'other'", id="no such report"),
    ],
)
def test_bad_input_is_one_line(root, run, run_tool, tmp_path, words, message):
    done = run_tool("report", *words, "--output", "page.html", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("words", [["training", "run"], ["dataset", "--input", "root"]], ids=["training", "dataset"])
def test_it_needs_neither_torch_nor_detectron2(root, run, run_tool, repo_root, tmp_path, words):
    for name in ("torch", "detectron2"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    path = f"{tmp_path}:{repo_root}"
    done = run_tool("report", *words, "--output", "page.html", cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
