"""Outlines as a zip archive of ROIs, which ImageJ's and Fiji's ROI Manager opens."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from roifile import ROI_TYPE, ImagejRoi

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.outlines import Polygon, trace
from cellseg_d2.export.overlay import class_color
from cellseg_d2.files import as_file_name, whole_file, zip_entry

LARGEST_INTEGER = 60_000
"""ImageJ takes 16-bit coordinates from 60,536 on for negative ones (``RoiDecoder.getShort``)."""

MOVE_TO, LINE_TO, CLOSE = 0.0, 1.0, 4.0
"""Segments of a composite ROI: ``java.awt.geom.PathIterator``'s SEG_MOVETO, SEG_LINETO and SEG_CLOSE."""


def write_roi_zip(path: Path, instances: CellInstances, class_names: Sequence[str]) -> None:
    """Writes each cell as an ImageJ ROI along its pixels' edges; no pixel is lost or gained.

    A cell of one piece without a hole is a traced ROI, as ImageJ's wand makes it; one with holes or of several pieces
    is a composite ROI, as ImageJ makes by combining selections; so is one too far right or down for 16-bit
    coordinates. A ROI's name is ``<id>_<class>_<score>``, with ids 1 .. N in the order of ``instances`` (ImageJ would
    take numbers joined by ``-`` for a place in a stack), and its stroke has the class's colour. ROI properties are not
    used: roifile cuts them short when it reads them.

    The format is described in ImageJ's ``ij/io/RoiDecoder.java``.

    Args:
        path: the file, ``.zip``.
        instances: cells with a pixel each.
        class_names: the names of class 0, 1, ...; characters that file names may not have become ``_``.

    Raises:
        CellSegError: the file cannot be written.
    """
    digits = max(4, len(str(len(instances))))
    names = [as_file_name(name) for name in class_names]
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for number, (mask, origin) in enumerate(zip(instances.masks, instances.origins)):
            label = int(instances.classes[number])
            roi = _to_roi(trace(mask, origin))
            roi.name = f"{number + 1:0{digits}}_{names[label]}_{float(instances.scores[number]):.2f}"
            roi.stroke_color = bytes([255, *class_color(label).tolist()])  # alpha, red, green, blue
            archive.writestr(zip_entry(f"{roi.name}.roi"), roi.tobytes())


def _to_roi(polygons: list[Polygon]) -> ImagejRoi:
    corners = np.concatenate([polygon[0] for polygon in polygons])
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    roi = ImagejRoi(version=226, left=left, top=top, right=right, bottom=bottom)  # ImageJ 1.52 on, as roifile's own
    if len(polygons) == len(polygons[0]) == 1 and max(right, bottom) <= LARGEST_INTEGER:
        roi.roitype = ROI_TYPE.TRACED
        roi.n_coordinates = len(corners)
        roi.integer_coordinates = (corners - (left, top)).astype(np.int32)
        return roi
    path: list[float] = []
    for ring in (ring for polygon in polygons for ring in polygon):
        for number, (x, y) in enumerate(ring.tolist()):
            path += [LINE_TO if number else MOVE_TO, x, y]
        path.append(CLOSE)
    roi.roitype = ROI_TYPE.RECT  # what the format wants of composite ROIs
    roi.shape_roi_size = len(path)
    roi.multi_coordinates = np.array(path, np.float32)
    return roi
