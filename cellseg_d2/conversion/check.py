"""The report on a dataset before it is converted, as a careful colleague would write it: ``convert --check``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cellseg_d2.annotations.reader import LabelledImage, problem_of
from cellseg_d2.cells.coco import Record
from cellseg_d2.conversion.cut import below, cut_sample, open_input, run_in_order
from cellseg_d2.conversion.executors import open_executor
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.conversion.statistics import ImageStatistics, summarise
from cellseg_d2.conversion.suggestions import Suggestion, largest_whole, suggest, to_yaml
from cellseg_d2.errors import CellSegError, counted
from cellseg_d2.images.listing import InputImage

SHIPPED_OVERLAP = 0.25
"""The default of ``CELLSEG.INFERENCE.OVERLAP``."""

MANY_CUT = 0.1
"""The report mentions cells that are cut by tiles if they are at least this share of all."""

NOTHING_FOUND = "nothing: all files can be read, and the labels look sound."

COLUMNS = {"min": "min", "p5": "5 %", "p50": "median", "p95": "95 %", "max": "max"}
"""The numbers shown of a distribution -> their column titles."""


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        root: the input.
        summary: see :func:`cellseg_d2.conversion.statistics.summarise`; ``dataset.json`` holds the same.
        test_images: the number of test images.
        suggestions: config keys and values that suit the dataset.
    """

    root: Path
    summary: Record
    test_images: int
    suggestions: dict[str, Suggestion]


def check(
    root: Path,
    options: ConvertOptions,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    from_coco: Path | None = None,
    annotation_format: str | None = None,
) -> CheckReport:
    """Reads every image of ``root`` as conversion would, and writes nothing.

    Args:
        root: the input, see :func:`cellseg_d2.conversion.convert.convert`.
        options: the options that conversion would get.
        workers: processes; the result does not depend on it.
        scheduler: a Dask scheduler to run on instead, ``tcp://HOST:PORT``.
        from_coco: a COCO file of whole images, instead of label TIFFs.
        annotation_format: see :func:`cellseg_d2.annotations.readers.find_labelled`.

    Raises:
        CellSegError: bad options, or no samples at all; files that cannot be read are in the report.
    """
    given = open_input(
        root,
        options,
        workers=workers,
        scheduler=scheduler,
        annotation_format=annotation_format,
        annotation_file=from_coco,
    )
    problems: list[str] = []
    tests: Sequence[InputImage] = []
    try:
        tests = given.find_tests()
    except CellSegError as error:
        problems.append(str(error))
    with open_executor(workers, scheduler) as executor:
        run = partial(run_in_order, executor, given.in_flight)
        examine = partial(_examine, options=options, class_count=len(given.class_names))
        results = run(examine, given.images, "images")
        problems += [line for _, lines in results for line in lines]
        if tests:
            for lines in run(partial(_examine_test, options=options), tests, "test images"):
                problems += lines
    measured = [statistics for statistics, _ in results if statistics is not None]
    summary = summarise(measured, given.class_names, options, below(given.root, problems))
    if given.notes:
        summary["left_out"] = below(given.root, given.notes)
    return CheckReport(root, summary, len(tests), suggest(summary))


def _examine(
    sample: LabelledImage, options: ConvertOptions, class_count: int
) -> tuple[ImageStatistics | None, list[str]]:
    try:
        return cut_sample(sample, options, class_count).statistics, []
    except CellSegError as error:
        found = sample.problems(options.pixel_rule, options.max_pixels, class_count)
        return None, found or [str(error)]


def _examine_test(test: InputImage, options: ConvertOptions) -> list[str]:
    return problem_of(partial(test.read, options.pixel_rule, options.max_pixels))


def render(report: CheckReport, base: str) -> str:
    """The report as plain text: what to look at, the numbers, and settings as YAML with the config ``base`` as base."""
    summary = report.summary
    cells, images = summary["cells"]["count"], summary["images"]["count"]
    tests = f", {counted(report.test_images, 'test image')}" if report.test_images else ""
    lines = [
        f"{report.root}: {counted(images, 'labelled image')} with {counted(cells, 'cell')} of "
        f"{counted(len(summary['classes']), 'class', 'classes')}{tests}. Nothing was converted.",
        "",
        "Please look at",
    ]
    found = notes(summary)
    for first, *others in found:
        lines += [f"- {first}", *(f"    {line}" for line in others)]
    if not found:
        lines.append(f"  {NOTHING_FOUND}")
    if cells:
        lines += ["", *_table(summary), *closing_lines(summary)]
    if report.suggestions:
        lines += ["", "Settings that suit these numbers (--suggest FILE writes them, for --config-file)"]
        lines += [f"  {line}" for line in to_yaml(report.suggestions, base).splitlines()]
    return "\n".join(lines) + "\n"


def notes(summary: Mapping[str, Any]) -> list[list[str]]:
    """The points to look at, each in one line or several; none where all is sound."""
    return [*_file_notes(summary), *_label_notes(summary), *_class_notes(summary), *_size_notes(summary)]


def _file_notes(summary: Mapping[str, Any]) -> list[list[str]]:
    problems, duplicates, formats = summary["problems"], summary["images"]["duplicates"], summary["images"]["formats"]
    found = []
    if problems:
        found.append(
            [f"{counted(len(problems), 'file')} cannot be used; the numbers leave their images out:", *problems]
        )
    found += [[line] for line in summary.get("left_out", [])]
    if duplicates:
        first = "These images have the same pixels. Keep one of each, or training sees what validation asks:"
        found.append([first, *(" = ".join(ids) for ids in duplicates)])
    if len({(form["bits"], form["channels"] > 1) for form in formats}) > 1:  # RGB beside RGBA makes no difference
        found.append(["Grey beside colour images, or several bit depths (see Formats below). Is that meant?"])
    return found


def _label_notes(summary: Mapping[str, Any]) -> list[list[str]]:
    findings = summary["findings"]
    wordings = {
        "shared_by_classes": "in cells of two classes or more. Each cell keeps them; is that meant?",
        "several_blobs": "of parts that do not touch. Each stays one cell; --split-blobs makes several.",
        "holes": "with a hole, which stays one. Were only outlines drawn?",
        "below_min_area": "under --min-area, which tiles leave out. Are they specks?",
    }
    found = []
    for name, wording in wordings.items():
        finding = findings[name]
        what = "pixel" if "pixels" in finding else "cell"
        if number := finding[f"{what}s"]:
            images, most_in = finding["images"], finding["most_in"]
            where = f"{counted(images, 'image')}, most in " if images > len(most_in) else ""
            found.append([f"{counted(number, what)} {wording}", f"(in {where}{', '.join(most_in)})"])
    return found


def _class_notes(summary: Mapping[str, Any]) -> list[list[str]]:
    found = []
    for name, cells in summary["classes"].items():
        if cells["images"] == 0 < summary["images"]["count"]:
            found.append([f"No image has a cell of {name}."])
        elif cells["images"] == 1 < summary["images"]["count"]:
            found.append([f"Only one image has cells of {name}: they can be learnt, but not validated."])
    if without := summary["images"]["count"] - summary["cells"]["images"]:
        found.append([f"{counted(without, 'image')} without any cell. Were their label files forgotten?"])
    return found


def _size_notes(summary: Mapping[str, Any]) -> list[list[str]]:
    tiles, cells = summary["tiles"], summary["cells"]
    tile_size, cut = tiles["tile_size"], tiles["cells_cut"]
    found = []
    if cut["share"] >= MANY_CUT:
        share = math.ceil(100 * cells["longest_side"]["p95"] / tile_size) / 100
        advice = f"--overlap {share:.2f} or a larger --tile-size" if share <= 0.5 else "A larger --tile-size"
        first = f"{counted(cut['cells'], 'cell')} ({100 * cut['share']:.0f} %) cut by tiles: no tile shows them whole."
        found.append([first, f"{advice} would, for most of them."])
    longest, shown = tiles["longest_side"].get("max", 0), largest_whole(tile_size, SHIPPED_OVERLAP)
    if longest > shown:
        too_long = cells["longest_side"]["p99"] > largest_whole(tile_size, 0.5)
        found.append(
            [
                f"The longest cell is {longest} px. Prediction at its default overlap of {SHIPPED_OVERLAP} sees cells",
                f"up to {shown} px whole and puts larger ones together from pieces.",
                f"Take the overlap below{' and a larger tile size' if too_long else ''}.",
            ]
        )
    return found


def distributions(summary: Mapping[str, Any]) -> list[tuple[str, Record]]:
    """A row per quantity over all classes and, where there are several, an indented row per class."""
    images, classes, tiles = summary["images"], summary["classes"], summary["tiles"]
    rows: list[tuple[str, Record]] = [
        ("image height, px", images["height"]),
        ("image width, px", images["width"]),
        ("megapixels", images["megapixels"]),
    ]
    for title, key in (
        ("cells per image", "per_image"),
        ("longest side of a cell, px", "longest_side"),
        ("area of a cell, px", "area"),
    ):
        rows.append((title, summary["cells"][key]))
        rows += [(f"  {name}", cells[key]) for name, cells in classes.items() if len(classes) > 1]
    rows.append(("cells per tile with cells", tiles["instances"]))
    rows += [(f"  {name}", cells["instances"]) for name, cells in tiles["classes"].items() if len(classes) > 1]
    return rows


def _table(summary: Mapping[str, Any]) -> list[str]:
    rows = distributions(summary)
    width = max(len(title) for title, _ in rows)
    lines = [f"{'Numbers':<{width}}" + "".join(f"{head:>10}" for head in COLUMNS.values())]
    for title, values in rows:
        numbers = "".join(f"{values.get(column, '-')!s:>10}" for column in COLUMNS)
        lines.append(f"{title:<{width}}{numbers}")
    return lines


def closing_lines(summary: Mapping[str, Any]) -> list[str]:
    """One line each about classes, formats and tiles."""
    tiles, formats = summary["tiles"], summary["images"]["formats"]
    classes = summary["classes"]
    lines = []
    if len(classes) > 1:
        counts = ", ".join(
            f"{cells['count']} {name} in {counted(cells['images'], 'image')}" for name, cells in classes.items()
        )
        lines.append(f"Classes: {counts}.")
    if formats:
        kinds = (f"{counted(form['images'], 'image')} of {_format(form)}" for form in formats)
        lines.append(f"Formats: {'; '.join(kinds)}.")
    cut = tiles["cells_cut"]
    lines.append(
        f"Tiles of {tiles['tile_size']} px, overlap {tiles['overlap']}: {tiles['count']:,}, {tiles['with_cells']:,} "
        f"with cells; {counted(cut['cells'], 'cell')} ({100 * cut['share']:.1f} %) cut by their edges."
    )
    return lines


def _format(form: Mapping[str, Any]) -> str:
    return f"{form['bits']} bit ({form['dtype']}), {counted(form['channels'], 'channel')}"
