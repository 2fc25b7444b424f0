"""A page on a dataset, converted or not: how many cells it has, how large they are, and what looks wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from cellseg_d2.annotations.reader import LabelledImage
from cellseg_d2.cells.coco import Record
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.conversion.check import COLUMNS, NOTHING_FOUND, check, closing_lines, distributions, notes
from cellseg_d2.conversion.cut import cut_sample, open_input
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.conversion.suggestions import Suggestion, suggest, to_yaml
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.contrast import stretched
from cellseg_d2.export.overlay import class_hex, draw_overlay
from cellseg_d2.files import read_json
from cellseg_d2.images.channels import as_picture
from cellseg_d2.report.page import PAGE_STYLE, figure_svg, grouped_number, picture_uri, write_page

DESCRIPTION = "dataset.json"

CONVERT_AGAIN = "convert again with this version's cellseg-d2 convert"

BASE = "mask_rcnn_X_101_32x8d_FPN.yaml"
"""The base config of the suggested settings, for a file beside it."""

PICTURE_SIDE = 400
"""The larger side of a picture in pixels, which bounds the size of the page."""

ROW = 0.42
"""The height of a bar or box in a figure, in inches."""


@dataclass(frozen=True)
class Dataset:
    """The content of a page.

    Attributes:
        kind: what the folder holds, as a text.
        summary: see :func:`cellseg_d2.conversion.statistics.summarise`.
        counts: a converted dataset's counts per part; else empty.
        test_images: the number of test images.
        suggestions: config keys and values that suit the dataset.
        parameters: the parameters of the conversion, which has been done or is planned.
        samples: labelled images, or training and validation tiles.
    """

    kind: str
    summary: Record
    counts: Record
    test_images: int
    suggestions: dict[str, Suggestion]
    parameters: Record
    samples: Sequence[LabelledImage]

    @property
    def class_names(self) -> list[str]:
        """The names of class 1, 2, ..."""
        return list(self.summary["classes"])


def write_dataset_report(
    folder: Path,
    output: Path,
    options: ConvertOptions,
    *,
    workers: int = 1,
    from_coco: Path | None = None,
    annotation_format: str | None = None,
    pictures: int = 8,
) -> None:
    """Writes a page on a dataset.

    Args:
        folder: a converted dataset, which has statistics, or the input of a conversion, whose images are read.
        output: the HTML file.
        options: the options for converting an input; a converted dataset has recorded them.
        workers: processes that read an input.
        from_coco: a COCO file of whole images in ``folder``, instead of label TIFFs.
        annotation_format: see :func:`cellseg_d2.annotations.readers.find_labelled`.
        pictures: how many images or tiles to show with their cells, spread evenly over all.

    Raises:
        CellSegError: bad options, no labelled images, or a ``dataset.json`` without statistics; files of an input that
            cannot be read are in the report.
    """
    if pictures < 0:
        raise CellSegError(f"pictures must not be negative, but is {pictures}")
    if annotation_format or from_coco is not None or not (folder / DESCRIPTION).is_file():
        _write(_read_input(folder, options, workers, from_coco, annotation_format), folder, output, pictures)
        return
    try:
        _write(_read_converted(folder), folder, output, pictures)
    except (KeyError, TypeError, AttributeError) as error:  # written by another version, or by hand
        raise CellSegError(
            f"{folder / DESCRIPTION}: is not as conversion writes it ({error}); {CONVERT_AGAIN}"
        ) from error


def _write(dataset: Dataset, folder: Path, output: Path, pictures: int) -> None:
    summary = dataset.summary
    write_page(
        output,
        "dataset.html.j2",
        title=f"Dataset {folder.resolve().name}",
        dataset=dataset,
        notes=["\n".join(lines) for lines in notes(summary)],
        nothing=NOTHING_FOUND,
        classes=_class_table(dataset),
        figures=_figures(dataset),
        columns=["", *COLUMNS.values()],
        numbers=[[title, *(_number(values.get(key)) for key in COLUMNS)] for title, values in distributions(summary)],
        facts=closing_lines(summary),
        pictures=_pictures(dataset, pictures),
        wanted=pictures,
        colors={name: class_hex(number) for number, name in enumerate(dataset.class_names)},
        settings=to_yaml(dataset.suggestions, BASE) if dataset.suggestions else "",
        parameters=[[name, str(value)] for name, value in dataset.parameters.items()],
    )


def _read_input(
    folder: Path, options: ConvertOptions, workers: int, from_coco: Path | None, annotation_format: str | None
) -> Dataset:
    report = check(folder, options, workers=workers, from_coco=from_coco, annotation_format=annotation_format)
    samples = open_input(folder, options, annotation_format=annotation_format, annotation_file=from_coco).images
    kind = "Not converted: read as conversion would."
    return Dataset(kind, report.summary, {}, report.test_images, report.suggestions, asdict(options), samples)


def _read_converted(folder: Path) -> Dataset:
    """Reads a converted dataset.

    Raises:
        CellSegError: it cannot be read, or was written by a version that wrote no statistics.
    """
    path = folder / DESCRIPTION
    content = read_json(path)
    wanted = ("statistics", "counts", "parameters")
    missing = [key for key in wanted if not isinstance(content, dict) or not isinstance(content.get(key), dict)]
    if missing:
        raise CellSegError(f"{path}: has no {missing[0]}; {CONVERT_AGAIN}")
    summary, counts, parameters = (content[key] for key in wanted)
    samples: list[LabelledImage] = []
    for part in ("train", "val"):
        ground_truth = folder / "annotations" / f"instances_{part}.json"
        if counts.get(part, {}).get("tiles"):
            samples += open_input(folder, ConvertOptions(), annotation_file=ground_truth).images
    test_images = counts.get("test", {}).get("images", 0)
    return Dataset("Converted.", summary, counts, test_images, suggest(summary), parameters, samples)


def _class_table(dataset: Dataset) -> list[list[str]]:
    """A header and one row per class: its cells, in total and by part, and its images."""
    parts = _cells_by_part(dataset)
    total = max(dataset.summary["cells"]["count"], 1)
    rows = [["class", "cells", "share", *(part for part in parts if part), "in images"]]
    for name, of_class in dataset.summary["classes"].items():
        by_part = [_number(cells[name]) for part, cells in parts.items() if part]
        share = f"{grouped_number(100 * of_class['count'] / total)} %"
        rows.append([name, _number(of_class["count"]), share, *by_part, _number(of_class["images"])])
    return rows


def _cells_by_part(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Part -> class name -> number of cells; an input that has not been split is one part without a name."""
    parts = {part: counts["cells"] for part, counts in dataset.counts.items() if "cells" in counts}
    return parts or {"": {name: of_class["count"] for name, of_class in dataset.summary["classes"].items()}}


def _figures(dataset: Dataset) -> dict[str, dict[str, str | Markup]]:
    """Name of a figure -> its SVG, caption and alt text; a caption says what has no data, and a figure may be empty."""
    summary = dataset.summary
    classes = summary["classes"]
    parts = _cells_by_part(dataset)
    cells = ", ".join(f"{name} {_number(of_class['count'])}" for name, of_class in classes.items())
    absent = [name for name, of_class in classes.items() if not of_class["count"]]
    absent += [f"the part {part}" for part, of_part in parts.items() if part and not any(of_part.values())]
    no_cells = f"No cells: {', '.join(absent)}." if absent else ""
    no_validation = "There is no validation part." if dataset.counts and "val" not in parts else ""
    found: dict[str, dict[str, str | Markup]] = {
        "classes": {
            "svg": figure_svg(_draw_bars(parts)),
            "caption": " ".join(filter(None, ("Cells of each class.", no_cells, no_validation))),
            "alt": f"Bar chart of the cells of each class: {cells}.",
        }
    }
    for key, unit, caption in (
        ("per_image", "cells", "Cells per image."),
        ("longest_side", "pixels", "Longest side of a cell's box."),
        ("area", "pixels", "Area of a cell."),
    ):
        of_classes = [("all", summary["cells"][key]), *((name, of_class[key]) for name, of_class in classes.items())]
        found[key] = _box_figure(of_classes, unit, caption, log=key != "per_image")
    sizes = [(side, summary["images"][side]) for side in ("height", "width")]
    found["image_size"] = _box_figure(sizes, "pixels", "Height and width of the images.", log=True)
    return found


def _box_figure(
    distributions: Sequence[tuple[str, Record]], unit: str, caption: str, log: bool
) -> dict[str, str | Markup]:
    """Box plots with a caption that names what has no data; without any there is no SVG."""
    shown = [(name, values) for name, values in distributions if values]
    if not shown:
        return {"svg": "", "caption": f"{caption} No plot: there are no cells.", "alt": ""}
    absent = [name for name, values in distributions if not values]
    caption += f" No box: {', '.join(absent)}, without cells." if absent else ""
    medians = ", ".join(f"{name} {_number(values['p50'])}" for name, values in shown)
    return {
        "svg": figure_svg(_draw_boxes(shown, unit, log)),
        "caption": caption,
        "alt": f"Box plots. {caption} Medians in {unit}: {medians}.",
    }


@matplotlib.rc_context(PAGE_STYLE)
def _draw_bars(parts: Mapping[str, Mapping[str, int]]) -> Figure:
    """A bar per class, with a piece per part."""
    names = list(next(iter(parts.values())))
    figure, axes = _rows(names)
    lefts = np.zeros(len(names), np.int64)
    for part, cells in parts.items():
        axes.barh(range(len(names)), [cells[name] for name in names], left=lefts, label=part)
        lefts += [cells[name] for name in names]
    axes.set_xlabel("cells")
    if len(parts) > 1:
        figure.legend(loc="outside upper center", ncols=len(parts))  # above the bars, none of which it covers
    return figure


@matplotlib.rc_context(PAGE_STYLE)
def _draw_boxes(distributions: Sequence[tuple[str, Record]], unit: str, log: bool) -> Figure:
    """A box per distribution: middle half and median, whiskers to 5 and 95 %, dots at the smallest and the largest."""
    figure, axes = _rows([name for name, _ in distributions])
    boxes = [
        {
            "whislo": values["p5"],
            "q1": values["p25"],
            "med": values["p50"],
            "q3": values["p75"],
            "whishi": values["p95"],
            "fliers": [values["min"], values["max"]],
        }
        for _, values in distributions
    ]
    line = {"color": "C0", "linewidth": 1.5}
    axes.bxp(
        boxes,
        positions=range(len(boxes)),
        widths=0.55,
        orientation="horizontal",
        manage_ticks=False,
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        medianprops={"color": "C1", "linewidth": 2.5},
        flierprops={"marker": ".", "markerfacecolor": "C0", "markeredgecolor": "C0"},
    )
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{unit} (logarithmic)" if log else unit)
    return figure


def _rows(names: Sequence[str]) -> tuple[Figure, Axes]:
    """An empty plot with one row per name, the first at the top."""
    figure = Figure(figsize=(5, 1 + ROW * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    return figure, axes


def _pictures(dataset: Dataset, number: int) -> list[dict[str, str]]:
    """Some of the labelled images, drawn with their cells: address, name, and a text that counts the cells."""
    samples, names = dataset.samples, dataset.class_names
    places = np.unique(np.linspace(0, len(samples) - 1, min(number, len(samples))).round().astype(int))
    channels = tuple(dataset.parameters.get("channels", ()))
    options = ConvertOptions(tile_size=dataset.parameters["tile_size"], channels=channels)
    pictures = []
    for place in places:
        try:
            cut = cut_sample(samples[place], options, len(names))
        except CellSegError:  # the check found it too, and the page lists it among the problems
            continue
        image = as_picture(cut.image, options.pixel_rule)
        # a large image is shown by the tile with the most cells
        (x0, y0, x1, y1), annotations = max(cut.tiles, key=lambda tile: len(tile[1]))
        cells = CellInstances.from_annotations(annotations, (y1 - y0, x1 - x0))
        counts = Counter(names[number] for number in cells.classes)
        pictures.append(
            {
                "address": picture_uri(draw_overlay(stretched(image[y0:y1, x0:x1]), cells), PICTURE_SIDE),
                "name": samples[place].id,
                "cells": ", ".join(f"{counts[name]} {name}" for name in names if counts[name]) or "no cell",
            }
        )
    return pictures


def _number(value: Any) -> str:
    """A number with all of its digits."""
    return "-" if value is None else f"{value:,}"
