"""A page on one or several trainings: their losses, scores and settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from cellseg_d2.errors import CellSegError
from cellseg_d2.report.curves import (
    AP_LABEL,
    METRICS,
    SMOOTHING,
    TOTAL_LOSS,
    UNMEASURED,
    VALIDATION,
    Curve,
    Line,
    draw_lines,
    loss_parts,
    say_if_empty,
    smooth,
    training_seconds,
)
from cellseg_d2.report.page import PAGE_STYLE, figure_svg, grouped_number, write_page
from cellseg_d2.report.run_folder import Run, differing_settings, read_runs

AVERAGED = "ema/"
"""The names of scores of the averaged weights begin with this."""

MOST_COLUMNS = 3
"""The most plots in a row."""

WIDTH, WIDE_HEIGHT, HEIGHT = 11, 3.6, 3
"""In inches: the width of a figure, the height of a plot that is alone in its row, and of one beside others."""

LOSS_CAPTION = f"Thin: as logged. Thick: the running mean over {SMOOTHING:.0%} of the records."

STROKES = ("-", ":", "-.")
"""Line styles of runs that have the same colour; dashed lines show other curves of the same run."""

AS_LOGGED = {"linewidth": 0.8, "alpha": 0.35}
DASHED = {"linestyle": "--", "marker": "o", "markersize": 4}


def write_training_report(folders: Sequence[Path], output: Path) -> None:
    """Writes a page that draws several trainings, finished or not, over each other.

    Args:
        folders: the OUTPUT_DIR of each, with ``metrics.json`` and, if there, ``config.yaml`` and ``log.txt``.
        output: the HTML file.

    Raises:
        CellSegError: no folder is given, or see :func:`cellseg_d2.report.run_folder.read_runs`.
    """
    if not folders:
        raise CellSegError("no training is given; give the OUTPUT_DIR of one or several")
    runs = read_runs(folders)
    write_page(
        output,
        "training.html.j2",
        title=f"Training {runs[0].name}" if len(runs) == 1 else f"{len(runs)} trainings",
        runs=_run_table(runs),
        configured=[run.name for run in runs if run.settings],
        settings=[[key, *map(_setting, values)] for key, values in differing_settings(runs).items()],
        sections=_sections(runs),
    )


def _run_table(runs: Sequence[Run]) -> list[list[str]]:
    """A header and one row per run, without columns that are empty in all runs."""
    rows = [_run_row(run) for run in runs]
    titles = [title for title in rows[0] if any(row[title] != "-" for row in rows)]
    return [titles, *([row[title] for title in titles] for row in rows)]


def _run_row(run: Run) -> dict[str, str]:
    """Column title -> a run's result."""
    done = run.records[-1]["iteration"] + 1 if run.records else 0
    planned = run.settings.get("SOLVER.MAX_ITER", done)
    times, seconds = run.curve("time"), training_seconds(run.records)
    return {
        "run": run.name,
        # an evaluation after the last iteration may be logged as one more
        "iterations": f"{planned:,}" if done - planned in (0, 1) else f"{done:,} of {planned:,}",
        **{f"best {label}": _best(run.curve(name)) for name, label in METRICS.items()},
        "loss at the end": _last(run.curve(TOTAL_LOSS)),
        "on validation": _last(run.curve(VALIDATION + TOTAL_LOSS)),
        "s per iteration": grouped_number(seconds / (times[-1][0] + 1) if times else None, 2),
        "hours": grouped_number(seconds / 3600, 2),
        "peak memory, MiB": grouped_number(run.peak_mib, 0),
    }


def _best(curve: Curve) -> str:
    """The highest value, and the first iteration with it."""
    scores = [(value, -iteration) for iteration, value in curve if not math.isnan(value)]
    if not scores:
        return "-"
    value, iteration = max(scores)
    return f"{grouped_number(value)} at {-iteration:,}"


def _last(curve: Curve) -> str:
    return grouped_number(curve[-1][1], 3) if curve else "-"


def _setting(value: Any) -> str:
    return "-" if value is None else str(value)


def _sections(runs: Sequence[Run]) -> list[dict[str, str | Markup]]:
    """Each figure's title, plots, caption and alt text; a figure with nothing to draw has a caption that says so.

    There are no sections where no run has logged anything.
    """
    parts = loss_parts(record for run in runs for record in run.records)
    scores = {
        label: [line for run, style in _styled(runs) for line in _score_lines(run, name, style)]
        for name, label in METRICS.items()
        if not name.startswith(AVERAGED)
    }
    rates = [  # often the same, so each line is thinner than the one below it
        Line(run.curve("lr"), run.name, {**style, "linewidth": 1.5 + 4 * (1 - number / len(runs))})
        for number, (run, style) in enumerate(_styled(runs), start=1)
    ]
    tried = (
        ("Scores on the validation part", scores, AP_LABEL, "", tuple(METRICS)),
        ("Loss", {"Sum of all losses": _loss_lines(runs, TOTAL_LOSS)}, "loss", LOSS_CAPTION, (TOTAL_LOSS,)),
        ("Its parts", {name: _loss_lines(runs, name) for name in parts}, "loss", LOSS_CAPTION, tuple(parts)),
        ("Learning rate", {"": rates}, "learning rate", "", ("lr",)),
    )
    names = ", ".join(run.name for run in runs)
    sections: list[dict[str, str | Markup]] = []
    for title, panels, ylabel, about, metrics in tried:
        caption = " ".join(filter(None, (about, _without_values(runs, metrics))))
        drawn = {name: lines for name, lines in panels.items() if any(line.points for line in lines)}
        what = ", ".join(name for name in drawn if name) or title
        alt = f"Line plots against the iteration: {what}, of {names}."
        svg = figure_svg(_draw(drawn, ylabel)) if drawn else ""
        sections.append({"title": title, "svg": svg, "caption": caption, "alt": alt})
    return sections if any(section["svg"] for section in sections) else []


def _without_values(runs: Sequence[Run], metrics: Sequence[str]) -> str:
    """A sentence on the runs that have no number of some metrics; empty where all have."""
    logged = {run.name: [value for name in metrics for _, value in run.curve(name)] for run in runs}
    nothing = [name for name, values in logged.items() if not values]
    unmeasured = [name for name, values in logged.items() if values and not any(map(math.isfinite, values))]
    said = [f"Nothing was logged of {', '.join(nothing)}."] if nothing else []
    said += [f"{UNMEASURED.capitalize()} of {', '.join(unmeasured)}."] if unmeasured else []
    return " ".join(said)


def _styled(runs: Sequence[Run]) -> list[tuple[Run, dict[str, Any]]]:
    """Each run with the style of its lines, which is the same in all plots."""
    colours = len(PAGE_STYLE["axes.prop_cycle"])
    return [
        (run, {"color": f"C{number % colours}", "linestyle": STROKES[number // colours % len(STROKES)]})
        for number, run in enumerate(runs)
    ]


def _score_lines(run: Run, name: str, style: Mapping[str, Any]) -> list[Line]:
    return [
        Line(run.curve(name), run.name, {**style, "marker": "o", "markersize": 4}),
        Line(run.curve(AVERAGED + name), f"{run.name}, averaged weights", {**style, **DASHED}),
    ]


def _loss_lines(runs: Sequence[Run], name: str) -> list[Line]:
    """For each run, the loss as logged, smoothed, and on validation tiles."""
    lines = []
    for run, style in _styled(runs):
        logged = run.curve(name)
        lines += [
            Line(logged, "", {**style, **AS_LOGGED}),
            Line(smooth(logged), run.name, {**style, "linewidth": 2}),
            Line(run.curve(VALIDATION + name), f"{run.name}, validation", {**style, **DASHED}),
        ]
    return lines


@matplotlib.rc_context(PAGE_STYLE)
def _draw(panels: Mapping[str, Sequence[Line]], ylabel: str) -> Figure:
    """A figure with one or several plots, by their titles."""
    columns = min(len(panels), MOST_COLUMNS)
    rows = math.ceil(len(panels) / columns)
    height = WIDE_HEIGHT if len(panels) == 1 else HEIGHT * rows
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for (title, lines), axes in zip(panels.items(), places):
        draw_lines(axes, lines, title, ylabel)
        say_if_empty(axes)
    for axes in places:  # empty places in the last row
        axes.set_axis_off()
    entries = {str(line.get_label()): line for axes in figure.axes for line in axes.lines if line.get_label()}
    entries = {label: line for label, line in entries.items() if not label.startswith("_")}  # names by matplotlib
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
    return figure
