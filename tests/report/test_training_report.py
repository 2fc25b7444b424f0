"""A page on trainings: its numbers are those of the logs, and settings that differ are named."""

import json

import pytest
import yaml
from pages import read_whole_page

from cellseg_d2.errors import CellSegError
from cellseg_d2.report.run_folder import read_runs
from cellseg_d2.report.training_report import write_training_report

CONFIG = {"OUTPUT_DIR": "out", "SOLVER": {"MAX_ITER": 60, "BASE_LR": 0.01, "STEPS": [40]}, "MODEL": {"DEPTH": 50}}


def record(iteration, loss, **more):
    return {"iteration": iteration, "total_loss": loss, "loss_mask": loss / 2, "lr": 0.01, "time": 0.5, **more}


RECORDS = [
    record(19, 3.0),
    record(39, 2.0, **{"segm/AP50": 40.25, "bbox/AP50": 41.0, "validation/total_loss": 2.5}),
    record(59, 1.5, **{"segm/AP50": 30.0, "bbox/AP50": 45.0, "validation/total_loss": 2.75}),
]


def write_run(folder, records=RECORDS, config=None, log=None):
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("".join(json.dumps(own) + "\n" for own in records))
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if log is not None:
        (folder / "log.txt").write_text(log)
    return folder


def report(tmp_path, *runs):
    write_training_report(runs, tmp_path / "page.html")
    return read_whole_page(tmp_path / "page.html")


def headings(page):
    return [title for title in ("Scores", "Its parts", "Learning rate", "Differing settings") if title in page.text]


def rows(table):
    return [dict(zip(table[0], row)) for row in table[1:]]


def test_a_run_is_summed_up_in_a_row(tmp_path):
    log = "iter: 19  lr: 0.01  max_mem: 1200M\niter: 39  max_mem: 3456M\niter: 59  max_mem: 3456M\n"
    page = report(tmp_path, write_run(tmp_path / "run", config=CONFIG, log=log))
    (table,) = page.tables
    assert rows(table) == [
        {
            "run": "run",
            "iterations": "60",
            "best mask AP50": "40.2 at 39",
            "best box AP50": "45.0 at 59",
            "loss at the end": "1.500",
            "on validation": "2.750",
            "s per iteration": "0.50",
            "hours": "0.01",
            "peak memory, MiB": "3,456",
        }
    ]
    assert headings(page) == ["Scores", "Its parts", "Learning rate"]


def test_plots_are_told_in_words(tmp_path):
    page = report(tmp_path, write_run(tmp_path / "a"), write_run(tmp_path / "b"))
    scores, total, parts, rate = page.values("div", "aria-label")
    assert all(text.endswith("of a, b.") for text in (scores, total, parts, rate))
    assert "mask AP50, box AP50" in scores and "mask AP," not in scores  # there is no such score
    assert "loss_mask" in parts and "Learning rate" in rate


def test_the_same_run_is_of_one_colour_in_all_plots(tmp_path):
    other = [record(19, 5.0, **{"ema/segm/AP50": 9.0}), record(39, 4.0)]
    page = report(tmp_path, write_run(tmp_path / "a"), write_run(tmp_path / "b", other))
    plots = page.source.split("<svg ")[1:]
    assert len(plots) == 4
    assert all("#0072b2" in plot and "#d55e00" in plot for plot in plots)
    assert "b, averaged weights" in page.text and "a, averaged weights" not in page.text
    assert "a, validation" in page.text and "b, validation" not in page.text


def test_settings_that_differ_are_named_with_their_values(tmp_path):
    other = {**CONFIG, "OUTPUT_DIR": "elsewhere", "SOLVER": {"MAX_ITER": 90, "BASE_LR": 0.01, "STEPS": []}, "NEW": 1}
    runs = [write_run(tmp_path / name, config=config) for name, config in (("a", CONFIG), ("b", other))]
    runs.append(write_run(tmp_path / "c"))
    page = report(tmp_path, *runs)
    table, settings = page.tables
    assert [row["iterations"] for row in rows(table)] == ["60", "60 of 90", "60"]
    assert settings == [
        ["config key", "a", "b"],
        ["NEW", "-", "1"],
        ["SOLVER.MAX_ITER", "60", "90"],
        ["SOLVER.STEPS", "[40]", "[]"],
    ]


def test_it_is_said_that_settings_are_the_same_or_not_known(tmp_path):
    same = [write_run(tmp_path / name, config={**CONFIG, "OUTPUT_DIR": name}) for name in ("a", "b")]
    page = report(tmp_path, *same)
    assert "Nothing: the configs of a, b have the same values" in page.text and len(page.tables) == 1
    page = report(tmp_path, same[0], write_run(tmp_path / "c"))
    assert "Not known: fewer than two of the folders hold a config.yaml" in page.text


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        pytest.param(["x/a/seed1"], ["seed1"], id="one"),
        pytest.param(["x/a/seed1", "x/a/seed2"], ["seed1", "seed2"], id="last part"),
        pytest.param(["x/a/seed1", "x/b/seed1", "x/b/seed2"], ["a/seed1", "b/seed1", "b/seed2"], id="two parts"),
    ],
)
def test_runs_are_called_by_what_tells_them_apart(tmp_path, folders, names):
    runs = read_runs([write_run(tmp_path / folder) for folder in folders])
    assert [run.name for run in runs] == names


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([], id="nothing yet"),
        pytest.param([{"iteration": 5, "segm/AP50": 20.0}], id="validation alone"),
        pytest.param([record(0, 2.0)], id="one record"),
        pytest.param([record(0, float("nan")), record(19, float("inf"))], id="diverged"),
        pytest.param([record(0, 2.0, **{"segm/AP50": float("nan")})], id="a class without cells"),
        pytest.param([record(19, 2.0), {"iteration": 20, "segm/AP50": 7.0}], id="evaluated after the last"),
    ],
)
def test_unfinished_trainings_have_a_page_without_a_warning(tmp_path, records):
    page = report(tmp_path, write_run(tmp_path / "a", records), write_run(tmp_path / "b"))
    assert [row["run"] for row in rows(page.tables[0])] == ["a", "b"]


def test_captions_name_the_runs_that_have_nothing_in_a_plot(tmp_path):
    silent = [record(19, 5.0), record(39, 4.0)]
    empty = [record(19, 5.0, **{"segm/AP50": float("nan")})]
    others = [write_run(tmp_path / name, records) for name, records in (("b", silent), ("c", empty))]
    page = report(tmp_path, write_run(tmp_path / "a"), *others)
    assert "Nothing was logged of b. Nothing could be measured of c." in page.text
    assert page.text.count("Nothing was logged of") == 1  # all have losses and a learning rate


def test_without_validation_the_page_says_that_there_are_no_scores(tmp_path):
    page = report(tmp_path, write_run(tmp_path / "run", [record(19, 5.0), record(39, 4.0)]))
    assert "No plot. Nothing was logged of run." in page.text
    assert page.source.count("<svg ") == 3


def test_scores_that_could_not_be_measured_are_no_blank_plot(tmp_path):
    page = report(tmp_path, write_run(tmp_path / "run", [record(19, 5.0, **{"segm/AP50": float("nan")})]))
    assert "mask AP50: nothing could be measured" in page.text
    assert "Nothing could be measured of run." in page.text


def test_a_training_that_has_logged_nothing_says_so(tmp_path):
    page = report(tmp_path, write_run(tmp_path / "run", []))
    assert page.tables[0][1] == ["run", "0"]
    assert "Nothing was logged yet." in page.text and "<svg" not in page.source


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        pytest.param("metrics.json", "{", r"metrics\.json: is not the metrics", id="damaged metrics"),
        pytest.param("config.yaml", "A: [", r"config\.yaml: is not YAML", id="damaged config"),
        pytest.param("config.yaml", "- 1\n", r"config\.yaml: is not the config of a training", id="no config"),
        pytest.param("config.yaml", b"\xff\xfe\x00", r"config\.yaml: is not YAML", id="no text"),
    ],
)
def test_damaged_files_are_named(tmp_path, file, content, message):
    run = write_run(tmp_path / "run")
    (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CellSegError, match=message):
        write_training_report([run], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_no_run_and_a_run_given_twice_are_refused(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(CellSegError, match="run: is given twice"):
        write_training_report([run, tmp_path / "." / "run"], tmp_path / "page.html")
    with pytest.raises(CellSegError, match="no training is given"):
        write_training_report([], tmp_path / "page.html")
