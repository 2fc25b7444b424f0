"""``counts.csv``: how many cells of each class each image has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.files import write_csv
from cellseg_d2.images.pixel_size import PixelSize

COUNTS_FILE = "counts.csv"


@dataclass(frozen=True)
class ImageCounts:
    """The cells of one image that people see, by class.

    Attributes:
        image: the image's file name.
        cells: (K,) of each class.
        areas: (K,) pixels of all cells of each class.
        mean_scores: (K,) None for a class without cells.
        pixel_size_um: (x, y) in microns per pixel; None where it is not known.
    """

    image: str
    cells: Sequence[int]
    areas: Sequence[int]
    mean_scores: Sequence[float | None]
    pixel_size_um: PixelSize | None = None

    @classmethod
    def of(
        cls, image: str, cells: CellInstances, class_count: int, pixel_size_um: PixelSize | None = None
    ) -> ImageCounts:
        """Those of an image's cells."""
        of_classes = [cells.classes == number for number in range(class_count)]
        scores, areas = cells.stated_scores, cells.areas
        means = [round(float(scores[of_class].mean()), 6) if of_class.any() else None for of_class in of_classes]
        numbers = [int(of_class.sum()) for of_class in of_classes]
        sums = [int(areas[of_class].sum()) for of_class in of_classes]
        return cls(image, numbers, sums, means, pixel_size_um)


def write_counts(path: Path, images: Iterable[ImageCounts], class_names: Sequence[str]) -> None:
    """Writes a row per image and class: ``image, class, cells, area_px, mean_score``, and ``area_um2`` where known.

    Areas are of all cells of the class together. The mean score of no cells is empty, as is an area in microns of an
    image whose pixel size is not known; where none is known there is no such column.

    Raises:
        CellSegError: the file cannot be written.
    """
    images = list(images)
    in_microns = any(image.pixel_size_um for image in images)
    rows = []
    for image in images:
        for name, cells, area, score in zip(class_names, image.cells, image.areas, image.mean_scores):
            row = [image.image, name, cells, area, "" if score is None else score]
            if in_microns:
                size = image.pixel_size_um
                row.append(round(area * size[0] * size[1], 6) if size else "")
            rows.append(row)
    header = ["image", "class", "cells", "area_px", "mean_score"]
    write_csv(path, [*header, "area_um2"] if in_microns else header, rows)
