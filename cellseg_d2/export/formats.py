"""The table of export formats: a new one is a writer and a line here. A format's libraries load when it writes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellseg_d2.cells.instances import CellInstances
    from cellseg_d2.images.channels import Channels
    from cellseg_d2.images.pixel_size import PixelSize
    from cellseg_d2.images.regions import ImageRegions

logger = logging.getLogger(__name__)

COCO = "coco"
"""One results file for all images, see :mod:`cellseg_d2.export.coco_results`; other formats have files per image."""

COCO_DATASET = "coco-dataset"
"""One file of annotations for all images, see :mod:`cellseg_d2.export.coco_dataset`."""

DEFAULT_FORMATS = (COCO, "overlay")

LARGEST_WHOLE = 10**8
"""Pixels of an image up to which formats are written that need as much memory as an array of all of them."""

DETECTION, ANNOTATION = OBJECT_TYPES = ("detection", "annotation")
"""What cells are in QuPath."""


@dataclass(frozen=True)
class ImageCells:
    """What a writer gets: the cells of one image, and what there is to know about it.

    Attributes:
        folder: the folder of all results.
        name: the image's name, for file names; with its folder where it lies in one below the input.
        cells: the cells.
        class_names: the names of class 0, 1, ...
        pixels: the image, open to be read by windows; RGB unless ``channels`` says otherwise. None where there is none.
        pixel_size_um: (x, y) in microns per pixel; None where it is not known.
        file_name: the name of the image's file, with its folder as in ``name``; for tables.
        path: the image's file; None where it is not known.
        object_type: what cells are in QuPath, of :data:`OBJECT_TYPES`.
        channels: what ``pixels`` has; None for RGB.
    """

    folder: Path
    name: str
    cells: CellInstances
    class_names: Sequence[str]
    pixels: ImageRegions | None = None
    pixel_size_um: PixelSize | None = None
    file_name: str = ""
    path: Path | None = None
    object_type: str = DETECTION
    channels: Channels | None = None

    @property
    def stem(self) -> str:
        """``name`` as LabelMe and Cellpose make it of the file's name: ``x.ome`` of ``x.ome.tif``."""
        return str(PurePosixPath(self.file_name).with_suffix("")) if self.file_name else self.name


def _geojson(image: ImageCells) -> None:
    from cellseg_d2.export.geojson import write_geojson

    path = image.folder / "geojson" / f"{image.name}.geojson"
    write_geojson(path, image.cells, image.class_names, image.object_type)


def _rois(image: ImageCells) -> None:
    from cellseg_d2.export.imagej_rois import write_roi_zip

    write_roi_zip(image.folder / "rois" / f"{image.name}.zip", image.cells, image.class_names)


def _labels(image: ImageCells) -> None:
    from cellseg_d2.export.label_tiff import write_label_maps

    write_label_maps(image.folder / "labels" / image.name, image.cells, image.class_names, image.pixel_size_um)


def _labelme(image: ImageCells) -> None:
    from cellseg_d2.export.labelme import write_labelme

    path = image.folder / "labelme" / f"{image.stem}.json"
    seen = PurePosixPath(image.file_name or image.name).name
    if image.path is not None:
        seen = Path(os.path.relpath(image.path, path.parent)).as_posix()
    write_labelme(path, image.cells, image.class_names, seen)


def _cellpose(image: ImageCells) -> None:
    from cellseg_d2.export.cellpose import write_cellpose

    height, width = image.cells.image_size
    if height * width > LARGEST_WHOLE:
        logger.warning("%s: is too large for Cellpose's files; take labels", image.file_name or image.name)
        return
    write_cellpose(image.folder / "cellpose", image.stem, image.file_name, image.cells, image.class_names)


def _csv(image: ImageCells) -> None:
    from cellseg_d2.export.cell_table import write_cell_table

    path, name = image.folder / "csv" / f"{image.name}.csv", image.file_name or image.name
    write_cell_table(path, image.cells, image.class_names, image.pixels, image.pixel_size_um, name, image.channels)


def _overlay(image: ImageCells) -> None:
    from cellseg_d2.export.overlay import WIDEST, write_overlay
    from cellseg_d2.images.overview import overview

    if image.pixels is not None:
        seen = overview(image.pixels, WIDEST)
        picture = seen if image.channels is None else image.channels.picture(seen)
        write_overlay(image.folder / "overlays" / f"{image.name}.png", picture, image.cells, image.class_names)


WRITERS: dict[str, Callable[[ImageCells], None]] = {
    "geojson": _geojson,
    "rois": _rois,
    "labels": _labels,
    "labelme": _labelme,
    "cellpose": _cellpose,
    "csv": _csv,
    "overlay": _overlay,
}
"""Format -> what writes one image's file or files."""

LATER_FORMATS = (COCO_DATASET, *WRITERS)
"""What can be made from results."""

FORMATS = (COCO, *LATER_FORMATS)
"""All that can be asked for."""


def write_image(image: ImageCells, formats: Collection[str]) -> None:
    """Writes an image's files of some formats; those that have none per image may be among them."""
    for name, write in WRITERS.items():
        if name in formats:
            write(image)
