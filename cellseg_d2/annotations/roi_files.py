"""ROIs of ImageJ's ``.roi`` files and zip archives as outlines; ``roifile`` reads the binary form.

The form is described in ImageJ's ``ij/io/RoiDecoder.java``. Areas have coordinates of pixels' corners: pixel x covers
x .. x + 1.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roifile import ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from cellseg_d2.annotations.shapes import Ring
from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.images.tiff import check_file

OUTLINED = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)
LARGEST_ROI = 2**28
"""Bytes of one ROI after decompression; roifile's own bound."""

DAMAGE = (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError)
"""What zipfile raises for archives that are damaged, encrypted, or of a compression that it does not know."""

CURVE_STEPS = np.linspace(0, 1, 17)[1:, None]
"""A curve of a composite ROI becomes so many lines."""


@dataclass(frozen=True, eq=False)
class Roi:
    """One ROI.

    Attributes:
        name: its name in ImageJ.
        rings: its outlines, those of holes too; none for points, lines, angles and ovals.
        oval: (x0, y0, x1, y1) of an oval.
        group: its group, 0 for none.
        properties: its properties; keys are in lower case.
        plane: whether it belongs to the first slice and frame, or to all of a stack.
    """

    name: str
    rings: list[Ring]
    oval: tuple[float, float, float, float] | None
    group: int
    properties: dict[str, str]
    plane: bool

    @property
    def is_area(self) -> bool:
        """Whether it can hold a pixel."""
        return self.oval is not None or any(len(ring) > 2 for ring in self.rings)


ROI_TYPES = range(11)
"""ImageJ's types, from polygon to point."""


def roi_names(path: Path) -> list[str] | None:
    """The entries of a zip archive that are ROIs; None of a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name for name in archive.namelist() if _is_roi(name)]
    except DAMAGE:
        return None


def read_rois(path: Path) -> list[Roi]:
    """The ROIs of a ``.roi`` file or of an archive of these, in its order; other entries are not looked at.

    Raises:
        CellSegError: it cannot be read, or a ROI is damaged, which is named.
    """
    check_file(path)
    return [_roi(path, name, data) for name, data in _entries(path)]


def _entries(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.suffix.lower() == ".roi":
        yield path.stem, path.read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if _is_roi(entry.filename):
                    if entry.file_size > LARGEST_ROI:
                        raise CellSegError(f"{path}: {entry.filename} is over {LARGEST_ROI} bytes; save the ROIs again")
                    yield Path(entry.filename).stem, archive.read(entry)
    except DAMAGE as error:
        raise CellSegError(f"{path}: cannot be read as a zip of ROIs ({one_line(error)}); save it again") from error


def _is_roi(name: str) -> bool:
    return name.lower().endswith(".roi") and not name.startswith("__MACOSX/")


def _roi(path: Path, entry: str, data: bytes) -> Roi:
    try:
        roi = ImagejRoi.frombytes(data)
        if roi.roitype not in ROI_TYPES:  # newer releases of roifile take any number
            raise ValueError(f"{int(roi.roitype)} is not a valid ROI_TYPE")
        rings = [ring.astype(np.float64).reshape(-1, 2) for ring in _outlines(roi)]
        oval = _box(roi) if roi.roitype == ROI_TYPE.OVAL else None
        if not all(np.isfinite(numbers).all() for numbers in (*rings, oval or 0.0)):
            raise ValueError("its coordinates are not finite")
        return Roi(
            roi.name or entry,
            rings,
            oval,
            roi.group,
            _properties(data),
            roi.z_position <= 1 and roi.t_position <= 1,
        )
    except Exception as error:  # roifile raises anything for a damaged file
        raise CellSegError(
            f"{path}: ROI {entry!r} is damaged ({one_line(error)}); remove it, or save it again"
        ) from error


def _outlines(roi: ImagejRoi) -> Sequence[NDArray[Any]]:
    """Outlines of areas; none of ovals, points and lines."""
    if roi.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE):
        return []
    if roi.composite and roi.multi_coordinates is not None:
        return _path(roi.multi_coordinates)
    if roi.roitype == ROI_TYPE.RECT:
        x0, y0, x1, y1 = _box(roi)
        return [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])]
    if roi.roitype in OUTLINED:
        return [np.asarray(roi.coordinates())]
    return []


def _box(roi: ImagejRoi) -> tuple[float, float, float, float]:
    if roi.subpixelrect:
        return roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd
    return roi.left, roi.top, roi.right, roi.bottom


def _path(values: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """The closed lines of a ``java.awt.geom.PathIterator``: segments 0 begin a line, 1 .. 3 go on, 4 closes it."""
    lines: list[list[NDArray[np.float64]]] = []
    place = 0
    while place < len(values):
        kind = int(values[place])
        if kind not in range(5) or (kind and not lines):
            raise ValueError(f"its path has the segment {kind} where none may be")
        count = (1, 1, 2, 3, 0)[kind]
        points = np.asarray(values[place + 1 : place + 1 + 2 * count], np.float64).reshape(count, 2)
        place += 1 + 2 * count
        if kind == 0:
            lines.append([points])
        elif kind == 1:
            lines[-1].append(points)
        elif kind < 4:
            lines[-1].append(_curve(np.concatenate([lines[-1][-1][-1:], points])))
    return [np.concatenate(line) for line in lines]


def _curve(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A Bezier curve as lines, without its first point (de Casteljau)."""
    levels = [np.broadcast_to(point, (len(CURVE_STEPS), 2)) for point in points]
    while len(levels) > 1:
        levels = [first + CURVE_STEPS * (second - first) for first, second in pairwise(levels)]
    return levels[0]


def _properties(data: bytes) -> dict[str, str]:
    """The ``key: value`` lines that a ROI has in its second header; roifile cuts them short by the name's length."""
    second = int.from_bytes(data[60:64], "big", signed=True)
    if not 0 < second < len(data) - 48:
        return {}
    offset, length = (int.from_bytes(data[second + at : second + at + 4], "big", signed=True) for at in (40, 44))
    if offset <= 0 or length <= 0:
        return {}
    lines = data[offset : offset + 2 * length].decode("utf-16-be").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}
