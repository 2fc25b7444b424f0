"""Runs that are there, that are another's, and that are in the way; and what they came to as table and figure."""

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from cellseg_d2.errors import CellSegError
from cellseg_d2.report.curves import smooth, training_seconds
from cellseg_d2.studies.arms import STUDIES
from cellseg_d2.studies.figures import draw, figure_of, on_common_iterations
from cellseg_d2.studies.results import (
    Finished,
    Result,
    find_same,
    is_finished,
    is_trained,
    read_finished,
    summarise,
    write_result,
)
from cellseg_d2.studies.run import Options
from cellseg_d2.studies.table import markdown, spread

SETTINGS = {"SEED": 1, "SOLVER": {"MAX_ITER": 60, "STEPS": []}}
RECORDS = [
    {"iteration": 19, "total_loss": 3.0, "time": 0.5},
    {"iteration": 39, "total_loss": 2.0, "time": 1.0, "segm/AP50": 10.0},
    {"iteration": 59, "total_loss": 1.5, "time": 1.0},
    {"iteration": 60, "segm/AP50": 8.0},
]

TITLES = ["Training loss, smoothed", "Validation", "Best checkpoint, each seed"]


def write_run(folder, settings=SETTINGS, result=None):
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "metrics.json").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    if result is not None:
        write_result(folder, result)
    return folder


def test_a_result_is_of_the_best_checkpoint_and_comes_back(tmp_path):
    folder = write_run(tmp_path / "run")
    write_result(folder, summarise(folder, math.nan))
    finished = read_finished(folder, seed=3)
    assert (finished.seed, finished.result.validation_ap50, finished.result.loss) == (3, 10.0, 1.5)
    assert math.isnan(finished.result.test_ap50)
    assert finished.result.seconds == 50.0  # 20 iterations of 0.5 s and 40 of 1 s
    assert finished.losses == ((19, 3.0), (39, 2.0), (59, 1.5))
    assert finished.validation == ((39, 10.0), (60, 8.0))


def test_too_few_iterations_have_no_time():
    assert math.isnan(training_seconds([{"iteration": 1, "total_loss": 3.0}]))


def test_a_run_is_finished_where_its_settings_and_its_result_are(tmp_path):
    assert not is_finished(tmp_path / "nowhere", SETTINGS)
    assert not is_finished(write_run(tmp_path / "stopped"), SETTINGS)
    assert is_finished(write_run(tmp_path / "whole", result=Result(1, 2, 3, 4)), SETTINGS)


def test_a_run_of_other_settings_is_not_overwritten(tmp_path):
    folder = write_run(tmp_path / "run", {"SEED": 1, "SOLVER": {"MAX_ITER": 90, "STEPS": []}, "OLD": 1})
    assert not is_finished(folder, SETTINGS)  # it never got to a checkpoint
    (folder / "last_checkpoint").touch()
    with pytest.raises(CellSegError, match=r"run: holds a run of other settings \(OLD, SOLVER.MAX_ITER\)"):
        is_finished(folder, SETTINGS)


def test_the_same_run_of_another_study_is_found(tmp_path):
    write_run(tmp_path / "a" / "stopped" / "seed1")
    write_run(tmp_path / "a" / "other" / "seed1", {**SETTINGS, "SEED": 2}, Result(1, 2, 3, 4))
    assert find_same(tmp_path, 1, SETTINGS) == ""
    write_run(tmp_path / "b" / "whole" / "seed1", result=Result(1, 2, 3, 4))
    assert find_same(tmp_path, 1, SETTINGS) == "b/whole/seed1"
    assert find_same(tmp_path, 2, SETTINGS) == ""


def test_a_training_ends_with_its_last_evaluation(tmp_path):
    folder = write_run(tmp_path / "run")
    assert not is_trained(folder, 60)
    (folder / "model_final.pth").touch()
    assert is_trained(folder, 60)
    assert not is_trained(folder, 90)


def finished_runs(study, seeds, tests=True):
    """Arms one better than the other, seeds one better than the other."""
    runs = {}
    for number, arm in enumerate(STUDIES[study].arms):
        runs[arm.name] = []
        for seed in range(1, seeds + 1):
            score = 10.0 * (number + 1) + seed
            result = Result(score, score / 2 if tests else math.nan, 2.0 - number, 100.0)
            losses = tuple((i, (5 - number) / (1 + i / 50) + seed / 10) for i in range(19, 300, 20))
            runs[arm.name].append(Finished(seed, result, losses, ((99, score / 2), (299, score))))
    return runs


def test_the_table_has_means_ranges_and_the_ratio():
    text = markdown(STUDIES["recipe"], finished_runs("recipe", 2), "python tools/ablate.py")
    assert "`python tools/ablate.py`; 300 iterations per run, seeds per arm: 2." in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[2:] == [
        "| original recipe | 11.5 (11.0-12.0) | 5.8 (5.5-6.0) | 1.00 | 2.000 (2.000-2.000) | 100 (100-100) |",
        "| this plugin | 21.5 (21.0-22.0) | 10.8 (10.5-11.0) | 1.87 | 1.000 (1.000-1.000) | 100 (100-100) |",
    ]


def test_without_a_test_set_validation_is_compared():
    text = markdown(STUDIES["recipe"], finished_runs("recipe", 1, tests=False), "command")
    assert "| this plugin | 21.0 | - | 1.91 | 1.000 | 100 |" in text


def test_next_to_nothing_is_no_base_of_a_ratio():
    runs = finished_runs("recipe", 1)
    runs["original"] = [replace(runs["original"][0], result=Result(0.002, 0.001, 3.0, 4.0))]
    assert "| this plugin | 21.0 | 10.5 | - |" in markdown(STUDIES["recipe"], runs, "command")


def test_spread_of_what_is_not_known():
    assert spread([1.0, math.nan], 1) == "-"


@pytest.mark.parametrize(("study", "seeds", "tests"), [("anchors", 3, True), ("recipe", 1, False)])
def test_each_arm_is_drawn_in_its_colour(study, seeds, tests, tmp_path):
    runs = finished_runs(study, seeds, tests)
    draw(STUDIES[study], runs, tmp_path / "new" / "study.png")
    picture = cv2.imread(str(tmp_path / "new" / "study.png")).astype(int)
    colours = {"blue": (180, 119, 31), "orange": (14, 127, 255), "green": (44, 160, 44)}
    drawn = [name for name, bgr in colours.items() if (abs(picture - bgr).max(axis=2) < 12).sum() > 500]
    assert drawn == list(colours)[: len(runs)]


def test_a_plot_without_values_says_why_and_legends_lie_below(tmp_path):
    runs = finished_runs("recipe", 2, tests=False)
    figure = figure_of(STUDIES["recipe"], runs)
    assert [axes.get_title() for axes in figure.axes] == TITLES
    shown = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert shown == ["validation", "test: nothing could be measured"]
    figure.draw_without_rendering()
    assert all(axes.get_legend().get_window_extent().y1 < axes.get_window_extent().y0 for axes in figure.axes)
    unmeasured = {
        arm: [replace(run, validation=((99, math.nan),), result=Result(math.nan, math.nan, 1.0, 1.0)) for run in own]
        for arm, own in runs.items()
    }
    said = [f"{title}: nothing could be measured" for title in TITLES[1:]]
    assert [axes.get_title() for axes in figure_of(STUDIES["recipe"], unmeasured).axes] == [TITLES[0], *said]
    never = {arm: [replace(run, validation=()) for run in own] for arm, own in runs.items()}
    assert figure_of(STUDIES["recipe"], never).axes[1].get_title() == "Validation: no common evaluation"


def test_a_table_with_a_dash_says_what_it_means():
    said = "A dash is a number that could not be measured"
    assert said in markdown(STUDIES["recipe"], finished_runs("recipe", 1, tests=False), "command")
    assert said not in markdown(STUDIES["recipe"], finished_runs("recipe", 1), "command")


def test_one_iteration_is_drawn_without_a_warning(tmp_path):
    run = Finished(1, Result(math.nan, math.nan, 1.0, math.nan), ((0, 1.0),), ((1, math.nan),))
    draw(STUDIES["recipe"], {"original": [run], "plugin": [run]}, tmp_path / "study.png")
    assert (tmp_path / "study.png").is_file()


def test_smoothing_is_a_running_mean():
    curve = tuple((i, float(value)) for i, value in enumerate([0, 3] * 10))
    smoothed = np.array([value for _, value in smooth(curve)])
    assert smooth(((0, 1.0), (1, 9.0))) == ((0, 1.0), (1, 9.0))
    assert smoothed[1:-1] == pytest.approx([1, 2] * 9)
    assert smoothed[[0, -1]] == pytest.approx([1.5, 1.5])


def test_curves_are_compared_where_all_have_a_value():
    iterations, values = on_common_iterations([((0, 1.0), (1, 2.0)), ((1, 5.0), (2, 6.0))])
    assert iterations == [1]
    assert values.tolist() == [[2.0], [5.0]]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"iterations": 0}, "--iterations"),
        ({"repeats": 0}, "--repeats"),
        ({"user": ("SEED", "4")}, "SEED is set by the study.*use --repeats"),
        ({"user": ("MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "4")}, "use --iterations"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(given, named, tmp_path):
    with pytest.raises(CellSegError, match=named):
        Options(data=tmp_path, output=tmp_path, **given).check()
