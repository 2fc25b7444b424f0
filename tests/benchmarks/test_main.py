"""tools/benchmark.py as a user runs it, in its quick form: what the tables hold, not how fast anything is."""

from importlib.metadata import version

import numpy as np
import pytest
from drawing import discs, noise, write_sample
from tables import is_ratio, read_tables

from benchmarks.__main__ import build_parser
from benchmarks.parts import PARTS
from benchmarks.sides import SAHI
from benchmarks.table import machine

SIDES = ["this package", *(["SAHI"] if SAHI.is_file() else [])]


@pytest.fixture
def small_root(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_sample(tmp_path / "input", name, noise(rng, 60, 70), {1: discs(rng, 60, 70, 8)}, photometric="rgb")
    return tmp_path / "input"


def test_convert_prints_its_tables_and_writes_them(run_tool, small_root, tmp_path):
    output = tmp_path / "new" / "convert.md"
    process = run_tool("benchmark", "convert", "--quick", "--data", small_root, "--output", output)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == output.read_text() + "\n"
    assert str(tmp_path) not in process.stdout
    assert "Timed runs of each work: 1, in turn; ratios are of medians, seconds of the clock." in process.stdout
    tables = read_tables(process.stdout)
    names = ["Annotation work", "Whole conversion", "Number of cells"]
    assert list(tables) == [*names, "Tile format: the data's tiles", "Tile format: H&E-like tiles"]

    work = tables["Annotation work"]
    assert [row["work"] for row in work] == ["this converter", "one full frame a cell"]
    assert all(is_ratio(row["times this converter"], row["median s"], work[0]["median s"]) for row in work)

    whole = tables["Whole conversion"]
    inputs = ("data", "1 dense images")
    assert [row["input: work"] for row in whole] == [f"{n}: {w}" for n in inputs for w in ("this converter", "floor")]
    for ours, floor in (whole[:2], whole[2:]):
        assert is_ratio(ours["times the floor"], ours["median s"], floor["median s"])
        assert floor["times the floor"] == "1.00"

    growth = tables["Number of cells"]
    assert [row["label TIFFs, cells"] for row in growth] == ["uncompressed, 8", "uncompressed, 16", "lzw, 8", "lzw, 16"]
    for first, row in (growth[:2], growth[2:]):
        assert is_ratio(row["times the first"], row["median s"], first["median s"])
        assert is_ratio(row["times the first 7"], row["peak MB"], first["peak MB"])
        assert 0 < float(row["for the work MB"]) < float(row["peak MB"])

    for title in list(tables)[3:]:
        formats = {row["format"]: row for row in tables[title]}
        assert float(formats["npy"]["size / raw"]) >= 1 > float(formats["WebP lossless"]["size / raw"]) - 0.1
        assert formats["npy"]["read in training"] == "-"
        assert float(formats["PNG of the converter"]["read in training"]) > 0


def test_every_part_names_packages_that_are_installed():
    for name, part in PARTS.items():
        needed = set(part.packages) - {"openvino"}
        assert needed and all(f"{package} {version(package)}" in machine(*part.packages) for package in needed), name


def test_a_package_that_is_not_installed_is_not_named():
    assert machine("numpy", "no-such-package") == machine("numpy")


def test_all_runs_parts_and_shows_the_error_of_one_that_fails(run_tool, tmp_path):
    output = tmp_path / "bench.md"
    options = ("--data", tmp_path / "nowhere", "--output", output)
    process = run_tool("benchmark", "all", "--quick", "--parts", "convert", "tables", "audit", *options)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == "error: failed: convert --quick --cpu-time"
    text = output.read_text()
    assert process.stdout == f"{text}\n"
    convert, tables, audit = text.split("\n## ")[1:]
    assert "**Failed** with exit code 2" in convert and "nowhere/train: there is no such folder" in convert
    assert machine(*PARTS["tables"].packages) in tables
    assert read_tables(tables)["Tables of cells"][0]["times all at once"] == "1.00"
    assert audit == f"audit\n\nLeft out: {PARTS['audit'].left_out}. `tools/benchmark.py audit` runs it.\n"


def test_the_arguments_in_all_are_those_of_the_parts():
    parser = build_parser()
    for name, part in PARTS.items():
        for arguments in part.in_all:
            assert parser.parse_args([name, "--short", *arguments]).size == "short"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["all", "--parts", "bake"], "--parts: invalid choice: 'bake'", id="unknown part of all"),
        pytest.param(["tables", "--quick", "--short"], "--short: not allowed with argument --quick", id="two sizes"),
        pytest.param(
            ["convert", "--quick", "--data", "nowhere"], "nowhere/train: there is no such folder", id="no data"
        ),
        pytest.param([], "the following arguments are required: PART", id="no part"),
        pytest.param(["bake"], "invalid choice: 'bake'", id="unknown part"),
        pytest.param(["convert", "--fast"], "unrecognized arguments: --fast", id="unknown option"),
        pytest.param(["train", "--threads", "0"], "--threads: '0' is not a whole number above 0", id="no threads"),
        pytest.param(["train", "--device", "tpu"], "--device: invalid choice: 'tpu'", id="unknown device"),
    ],
)
def test_bad_input_is_one_line(run_tool, tmp_path, arguments, message):
    process = run_tool("benchmark", *arguments, cwd=tmp_path)
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ") and message in line


def test_help_names_the_parts(run_tool):
    process = run_tool("benchmark", "convert", "--help")
    assert process.returncode == 0
    for option in ("--data PATH", "--output FILE", "--quick"):
        assert option in process.stdout


def test_mapper_compares_both_ways_at_each_number_of_cells(run_tool):
    process = run_tool("benchmark", "mapper", "--quick")
    assert process.returncode == 0, process.stderr
    rows = read_tables(process.stdout)["Mapper"]
    ways = ["this mapper", "a list of masks"]
    assert [row["way, cells"] for row in rows] == [f"{way}, {count}" for count in (5, 9) for way in ways]
    for ours, theirs in (rows[:2], rows[2:]):
        assert ours["times this mapper"] == "1.00"
        assert is_ratio(theirs["times this mapper"], theirs["median s"], ours["median s"])
        assert float(theirs["MB"]) > 0


def test_evaluate_scores_alike_and_says_what_it_took(run_tool):
    process = run_tool("benchmark", "evaluate", "--quick")
    assert process.returncode == 0, process.stderr
    ours, theirs = read_tables(process.stdout)["Evaluation"]
    assert is_ratio(theirs["times this evaluator"], theirs["median s"], ours["median s"])
    first, second = process.stdout.split("AP50 ")[1].split(". Ratios")[0].split(" and ")
    assert first == second


def test_train_times_both_sides_and_says_what_they_trained_on(run_tool):
    process = run_tool("benchmark", "train", "--quick", "--device", "cpu", "--threads", "1")
    assert process.returncode == 0, process.stderr
    assert "CPU with 1 threads" in process.stdout
    assert process.stdout.startswith(machine(*PARTS["train"].packages))
    tables = read_tables(process.stdout)
    assert list(tables) == ["Training step, float32", "Training step, equal positive RoIs"]
    for rows in tables.values():
        ours, theirs = rows
        assert [row["side, cells"] for row in rows] == ["this package, 4", "torchvision, 4"]
        assert ours["times this package"] == "1.00"
        assert is_ratio(theirs["times this package"], theirs["median s"], ours["median s"])
    assert all(float(row["MB"]) > 100 for row in tables["Training step, float32"])
    assert {row["positive RoIs"] for row in tables["Training step, equal positive RoIs"]} == {"4"}


def _says_what_is_missing(text):
    return ("`make bench-setup`" in text) == (len(SIDES) == 1)


def test_stitch_counts_time_and_faults_of_both_sides(run_tool, small_root):
    process = run_tool("benchmark", "stitch", "--quick", "--data", small_root)
    assert process.returncode == 0, process.stderr
    assert _says_what_is_missing(process.stdout)
    tables = read_tables(process.stdout)
    merging, mosaics = tables["Merging"], tables["Mosaics of real cells"]
    assert [row["side, cells"] for row in merging] == [f"{side}, 40" for side in SIDES]
    assert all(is_ratio(row["times this package"], row["median s"], merging[0]["median s"]) for row in merging)
    assert [row["side"] for row in mosaics] == SIDES
    for ours, count in ((merging[0], "40"), (mosaics[0], "16")):
        assert [ours[name] for name in ("objects", "lost", "doubled", "fused")] == [count, "0", "0", "0"]


def test_predict_compares_both_sides_and_measures_a_large_image(run_tool, small_root):
    process = run_tool("benchmark", "predict", "--quick", "--large", "--device", "cpu", "--data", small_root)
    assert process.returncode == 0, process.stderr
    assert _says_what_is_missing(process.stdout)
    tables = read_tables(process.stdout)
    assert [row["side"] for row in tables["Prediction"]] == SIDES
    shares = [float(row["%"]) for row in tables["Where this package's time goes"]]
    assert sum(shares) == pytest.approx(100, abs=0.2) and min(shares) >= 0
    (large,) = tables["A large image from file to files"]
    assert [large[name] for name in ("objects", "lost", "doubled", "fused")] == ["40", "0", "0", "0"]
    assert float(large["MB"]) > 100 and large["GPU MB"] == "-"


def test_train_profiles_the_parts_of_a_step(run_tool):
    process = run_tool("benchmark", "train", "--quick", "--profile")
    assert process.returncode == 0, process.stderr
    tables = read_tables(process.stdout)
    parts = tables["Where the time of a training step goes"]
    for way in ("before", "now"):
        shares = {row["part"]: float(row[f"mask_rcnn_lite0_FPN: {way} %"]) for row in parts}
        assert sum(shares.values()) == pytest.approx(100, abs=0.8)
        assert min(shares.values()) >= 0
        assert shares["backbone"] > 0 and shares["backbone, gradient"] > 0 and shares["mask head, gradient"] > 0
    before, now = tables["Ways to train"]
    assert [row["model: way"].partition(": ")[2] for row in (before, now)] == ["before", "now"]
    assert is_ratio(now["times as fast"], before["median s"], now["median s"])


def test_slide_finds_every_cell_once_and_says_where_the_time_goes(run_tool):
    process = run_tool("benchmark", "slide", "--quick")
    assert process.returncode == 0, process.stderr
    tables = read_tables(process.stdout)
    (slide,) = tables["A whole slide"]
    assert int(slide["found"]) > 1000
    assert (slide["lost"], slide["doubled"]) == ("0", "0")
    assert f" {int(slide['found']):,} cells" in process.stdout
    assert float(slide["peak MB"]) > 100
    *stages, whole = tables["Where the time goes"]
    assert whole["stage"] == "all"
    assert sum(float(row["%"]) for row in stages) == pytest.approx(100, abs=1)
    per_gigapixel = {row["stage"]: float(row["s / gigapixel"]) for row in tables["Where the time goes"]}
    assert {"reading", "model", "masks to pixels", "putting together", "writing labels"} < set(per_gigapixel)
    besides = per_gigapixel["all"] - per_gigapixel["model"]
    assert float(slide["s / gigapixel but for the model"]) == pytest.approx(besides, rel=0.01)


def test_predict_profiles_the_parts_of_a_network(run_tool):
    process = run_tool("benchmark", "predict", "--quick", "--profile", "--cpu-time")
    assert process.returncode == 0, process.stderr
    tables = read_tables(process.stdout)
    name = "mask_rcnn_lite0_FPN, 5"
    for row in tables["Where the time of a prediction goes"]:
        shares = [float(value) for column, value in row.items() if column.endswith("%")]
        assert len(shares) == 6 and sum(shares) == pytest.approx(100, abs=0.4)
    before, now = tables["Ways to predict"]
    assert [before["model, detections: way"], now["model, detections: way"]] == [f"{name}: before", f"{name}: torch"]
    assert is_ratio(now["times as fast"], before["median s"], now["median s"])


def test_predict_measures_the_memory_of_point_rend(run_tool):
    process = run_tool("benchmark", "predict", "--quick", "--memory")
    assert process.returncode == 0, process.stderr
    (memory,) = read_tables(process.stdout)["Memory of PointRend"]
    assert float(memory["peak MB"]) > float(memory["before MB"]) > 100
