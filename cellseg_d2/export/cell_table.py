"""Measures of each cell as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.measure import regionprops

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.files import whole_file

MEASURES = ("area_px", "centroid_x_px", "centroid_y_px", "perimeter_px", "eccentricity", "solidity")
MICRON_MEASURES = ("area_um2", "centroid_x_um", "centroid_y_um", "perimeter_um")
CHANNELS = ("red", "green", "blue")


def write_cell_table(
    path: Path,
    instances: CellInstances,
    class_names: Sequence[str],
    image: NDArray[np.uint8] | None = None,
    pixel_size: tuple[float, float] | None = None,
) -> None:
    """Writes one row a cell, in the order of ``instances``, measured as ``skimage.measure.regionprops`` does.

    - ``id``: 1 .. N, the same as in the other formats; ``class``: its name; ``score``;
    - ``area_px``; ``centroid_x_px``, ``centroid_y_px``: a pixel's centre has whole numbers, so that QuPath and ImageJ,
      which count from the pixel's corner, show 0.5 more; ``perimeter_px``: of the line through the centres of the
      border's pixels, so 0 for a cell of one pixel;
    - ``eccentricity``: of the ellipse with the same second moments, 0 for a circle and for a cell of one pixel;
      ``solidity``: share of the convex hull that the cell fills; both in pixels, also where these are not square;
    - with ``pixel_size``, ``area_um2``, ``centroid_x_um``, ``centroid_y_um``, and ``perimeter_um``, which is empty
      where pixels are not square, for which it is not defined;
    - with ``image``, ``mean_red``, ``mean_green`` and ``mean_blue``, 0 .. 255.

    Numbers have six decimals at most. A cell of several pieces is measured as one.

    Args:
        path: the file, ``.csv``, UTF-8.
        instances: cells with a pixel each.
        class_names: the names of class 0, 1, ...
        image: (H, W, 3) uint8 RGB.
        pixel_size: microns a pixel, (x, y).

    Raises:
        CellSegError: the file cannot be written.
    """
    header = ["id", "class", "score", *MEASURES]
    if pixel_size is not None:
        header += MICRON_MEASURES
    if image is not None:
        header += [f"mean_{channel}" for channel in CHANNELS]
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for number, (mask, (x, y)) in enumerate(zip(instances.masks, instances.origins.tolist())):
            values = _measure(mask, x, y)
            if pixel_size is not None:
                values += _to_microns(values, pixel_size)
            if image is not None:
                values += image[y : y + mask.shape[0], x : x + mask.shape[1]][mask].mean(axis=0).tolist()
            fields = ["" if math.isnan(value) else round(value, 6) for value in values]
            score = round(float(instances.scores[number]), 6)
            writer.writerow([number + 1, class_names[instances.classes[number]], score, *fields])


def _measure(mask: NDArray[np.bool_], x: int, y: int) -> list[float]:
    """:data:`MEASURES` of a cell whose mask begins at (x, y)."""
    (region,) = regionprops(mask.view(np.uint8))  # type: ignore[no-untyped-call]
    row, column = region.centroid
    shape = (float(region.perimeter), float(region.eccentricity), float(region.solidity))
    return [int(region.area), float(column) + x, float(row) + y, *shape]


def _to_microns(values: list[float], pixel_size: tuple[float, float]) -> list[float]:
    """:data:`MICRON_MEASURES` from :data:`MEASURES`; NaN for a perimeter of pixels that are not square."""
    width, height = pixel_size
    area, column, row, perimeter = values[:4]
    side = width if math.isclose(width, height, rel_tol=1e-3) else math.nan
    return [area * width * height, column * width, row * height, perimeter * side]
