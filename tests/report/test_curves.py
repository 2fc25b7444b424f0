"""Training curves from metrics.json, of resumed and of unfinished trainings too."""

import json

import cv2
import pytest
from matplotlib.figure import Figure

from cellseg_d2.errors import CellSegError
from cellseg_d2.report.curves import UNMEASURED, Line, draw_lines, legend_below, plot_curves, read_metrics, say_if_empty


def write_metrics(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def losses(iteration, loss):
    return {"iteration": iteration, "total_loss": loss, "loss_mask": loss / 2, "lr": 0.005}


def ink(path):
    """Share of coloured pixels: axes and text are grey, curves are not."""
    picture = cv2.imread(str(path)).astype(int)
    return ((picture.max(axis=2) - picture.min(axis=2)) > 60).mean()


def test_of_a_resumed_training_the_later_record_of_an_iteration_wins(tmp_path):
    before = [losses(19, 3.0), losses(39, 2.0), {"iteration": 39, "segm/AP50": 10.0}, losses(59, 9.0)]
    after = [losses(59, 1.5), losses(79, 1.0), {"iteration": 79, "segm/AP50": 30.0}]
    records = read_metrics(write_metrics(tmp_path / "metrics.json", before + after))
    assert [(record["iteration"], record["total_loss"]) for record in records] == [(19, 3), (39, 2), (59, 1.5), (79, 1)]
    assert [record.get("segm/AP50") for record in records] == [None, 10, None, 30]


def test_empty_lines_are_no_records(tmp_path):
    (tmp_path / "metrics.json").write_text('\n{"iteration": 0}\n\n{"iteration": 1}\n\n')
    assert [record["iteration"] for record in read_metrics(tmp_path / "metrics.json")] == [0, 1]


def test_the_curves_are_drawn(tmp_path):
    records = [losses(iteration, 100 / (iteration + 1)) for iteration in range(0, 300, 20)]
    records += [{"iteration": iteration, "segm/AP50": iteration / 5, "bbox/AP50": 9.0} for iteration in (100, 200, 299)]
    plot_curves(write_metrics(tmp_path / "metrics.json", records), tmp_path / "plots" / "curves.png")
    assert cv2.imread(str(tmp_path / "plots" / "curves.png")).shape[:2] == (600, 1200)
    assert ink(tmp_path / "plots" / "curves.png") > 0.003


@pytest.mark.parametrize("count", [1, 4, 14])
def test_the_legend_lies_below_the_plot_and_inside_the_picture(count):
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    draw_lines(axes, [Line(((0, 1.0), (10, 5.0)), f"loss_{number}") for number in range(count)], "Losses", "loss")
    legend_below(axes)
    figure.draw_without_rendering()
    legend, plot = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert legend.y1 < axes.xaxis.get_tightbbox().y0 < plot.y0
    assert legend.y0 >= 0 and legend.x0 >= 0 and legend.x1 <= figure.bbox.x1
    assert plot.height > 0.25 * figure.bbox.y1


@pytest.mark.parametrize(
    ("points", "title"),
    [
        ((), "AP: nothing was logged yet"),
        (((0, float("nan")),), f"AP: {UNMEASURED}"),
        (((0, float("nan")), (1, 2.0)), "AP"),
    ],
)
def test_an_empty_plot_says_why(points, title):
    axes = Figure().subplots()
    draw_lines(axes, [Line(points, "mask AP")], "AP", "AP")
    say_if_empty(axes)
    assert axes.get_title() == title


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([], id="nothing yet"),
        pytest.param([{"iteration": 5, "segm/AP50": 20.0}], id="validation alone"),
        pytest.param([losses(0, 2.0)], id="one iteration"),
        pytest.param([losses(0, float("nan")), losses(20, float("nan"))], id="diverged"),
        pytest.param([losses(0, 2.0), {"iteration": 20, "segm/AP50": float("nan")}], id="a class without cells"),
    ],
)
def test_unfinished_trainings_are_drawn_without_a_warning(tmp_path, records):
    plot_curves(write_metrics(tmp_path / "metrics.json", records), tmp_path / "curves.png")
    assert cv2.imread(str(tmp_path / "curves.png")).shape[:2] == (600, 1200)


def test_a_last_line_that_is_still_being_written_is_left_out(tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 1, "lr": 0.1}\n{"iteration": 2, "l')
    assert read_metrics(tmp_path / "metrics.json") == [{"iteration": 1, "lr": 0.1}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            None, r"metrics\.json: cannot be read \(No such file or directory\); give the OUTPUT", id="missing"
        ),
        pytest.param('{"iteration": 1}\n{"iter\n', r"metrics\.json: is not the metrics\.json .*line 2: ", id="damaged"),
        pytest.param('{"images": []}', r"metrics\.json: is not the metrics\.json of a training", id="another JSON"),
        pytest.param("[1, 2]\n3\n", r"metrics\.json: is not the metrics\.json of a training", id="no objects"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(CellSegError, match=message):
        plot_curves(tmp_path / "metrics.json", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
