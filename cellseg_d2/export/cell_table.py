"""Measures of each cell as CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.measures import Shapes, shapes
from cellseg_d2.files import write_csv
from cellseg_d2.images.channels import Channels
from cellseg_d2.images.regions import ImageRegions

MEASURES = ("area_px", "centroid_x_px", "centroid_y_px", "perimeter_px", "eccentricity", "solidity")
MICRON_MEASURES = ("area_um2", "centroid_x_um", "centroid_y_um", "perimeter_um")


def write_cell_table(
    path: Path,
    instances: CellInstances,
    class_names: Sequence[str],
    image: NDArray[np.uint8] | ImageRegions | None = None,
    pixel_size: tuple[float, float] | None = None,
    image_name: str = "",
    channels: Channels | None = None,
) -> None:
    """Writes one row a cell, in the order of ``instances``, measured as ``skimage.measure.regionprops`` does.

    - ``image``: its name, so that tables of many images can be put below each other;
    - ``id``: 1 .. N, the same as in the other formats; ``class``: its name; ``score``;
    - ``area_px``; ``centroid_x_px``, ``centroid_y_px``: a pixel's centre has whole numbers, so that QuPath and ImageJ,
      which count from the pixel's corner, show 0.5 more; ``perimeter_px``: of the line through the centres of the
      border's pixels, so 0 for a cell of one pixel;
    - ``eccentricity``: of the ellipse with the same second moments, 0 for a circle and for a cell of one pixel;
      ``solidity``: share of the convex hull that the cell fills; both in pixels, also where these are not square;
    - with ``pixel_size``, ``area_um2``, ``centroid_x_um``, ``centroid_y_um``, and ``perimeter_um``, which is empty
      where pixels are not square, for which it is not defined;
    - with ``image``, ``mean_red``, ``mean_green`` and ``mean_blue``, or a mean per channel by its name, 0 .. 255.

    Numbers have six decimals at most. A cell of several pieces is measured as one.

    Args:
        path: the file, ``.csv``, UTF-8.
        instances: cells with a pixel each.
        class_names: the names of class 0, 1, ...
        image: (H, W, C) uint8, or an image that is read by windows.
        pixel_size: microns a pixel, (x, y).
        image_name: what the column ``image`` holds.
        channels: the channels of ``image``; None for RGB.

    Raises:
        CellSegError: the file cannot be written.
    """
    header = ["image", "id", "class", "score", *MEASURES]
    measured = shapes(instances, image)
    columns = [measured.areas, *measured.centroids.T, measured.perimeters, measured.eccentricities, measured.solidities]
    if pixel_size is not None:
        header += MICRON_MEASURES
        columns += _in_microns(measured, pixel_size)
    if measured.means is not None:
        titles = (channels or Channels()).titles()
        header += [f"mean_{title}" for title in titles]
        columns += [measured.means[:, place] for place in titles.values()]
    names = [class_names[number] for number in instances.classes.tolist()]
    scores, values = instances.stated_scores.tolist(), zip(*(_rounded(column) for column in columns))
    numbered = enumerate(zip(names, scores, values), start=1)
    write_csv(
        path, header, ([image_name, number, name, score, *measures] for number, (name, score, measures) in numbered)
    )


def _rounded(column: NDArray[Any]) -> list[Any]:
    """Six decimals at most; empty for what is not defined."""
    values = column.round(6).tolist() if column.dtype.kind == "f" else column.tolist()
    return ["" if math.isnan(value) else value for value in values]


def _in_microns(measured: Shapes, pixel_size: tuple[float, float]) -> list[NDArray[np.float64]]:
    """:data:`MICRON_MEASURES`; NaN for perimeters of pixels that are not square."""
    width, height = pixel_size
    side = width if math.isclose(width, height, rel_tol=1e-3) else math.nan
    centres = measured.centroids * (width, height)
    areas = measured.areas.astype(np.float64) * (width * height)
    return [areas, centres[:, 0], centres[:, 1], measured.perimeters * side]
