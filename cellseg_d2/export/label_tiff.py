"""Label maps as TIFF: one of all cells, and one a class as the input layout has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from cellseg_d2.annotations.class_tiffs import JOINT_FILE
from cellseg_d2.cells.arrays import Ints
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.files import whole_file

TILE = 512
UNTILED_SIDE = 2048
"""Images up to this side are written in strips, which every reader can read."""

CLASSIC_BYTES = 2**32 - 2**25
"""Files of more pixels' bytes than this, without compression, are BigTIFF; tifffile's bound, unused by it for tiles."""


def write_label_maps(
    folder: Path,
    instances: CellInstances,
    class_names: Sequence[str],
    pixel_size: tuple[float, float] | None = None,
) -> None:
    """Writes ``labels.tif`` of all cells and ``class<k>.tif``, k = 1 .. K, of each class.

    0 is background. A cell's id is its place in ``instances`` from 1 on, in each of the files. They hold 16-bit ids
    for up to 65,535 cells and 32-bit ids for more, compressed without loss; images of more than 2,048 pixels a side
    are tiled, and files that may pass 4 GB are BigTIFF. Of a tiled image never more than 512 rows are in memory.

    A pixel holds one id: of cells that overlap, the one with the best score lies on top, of equal ones the first. The
    others lose these pixels; predict leaves out those that would lose most of theirs. In a class's file only cells of
    this class cover each other. The formats that write outlines lose nothing.

    Args:
        folder: where the files go.
        instances: the cells.
        class_names: the names of class 0, 1, ...; there is a file per name.
        pixel_size: microns a pixel, (x, y), for the resolution tags.

    Raises:
        CellSegError: a file cannot be written.
    """
    by_score = instances.ranking[::-1]
    _write(folder / JOINT_FILE, instances, by_score, pixel_size)
    for number in range(len(class_names)):
        chosen = by_score[instances.classes[by_score] == number]
        _write(folder / f"class{number + 1}.tif", instances, chosen, pixel_size)


def label_map(instances: CellInstances, class_number: int) -> NDArray[np.unsignedinteger[Any]]:
    """(H, W) uint16, or uint32 for more than 65,535 cells: what ``class<k>.tif`` holds, for class k - 1."""
    by_score = instances.ranking[::-1]
    chosen = by_score[instances.classes[by_score] == class_number]
    return _paint(instances, instances.mask_boxes, chosen, (0, instances.image_size[0]), _dtype(instances))


def _dtype(instances: CellInstances) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if len(instances) <= np.iinfo(np.uint16).max else np.uint32


def _write(
    path: Path, instances: CellInstances, drawn: NDArray[np.int64], pixel_size: tuple[float, float] | None
) -> None:
    """One file; ``drawn`` are places in ``instances``, the topmost last."""
    boxes = instances.mask_boxes
    height, width = instances.image_size
    dtype = _dtype(instances)
    options: dict[str, Any] = {"compression": "zlib", "photometric": "minisblack", "metadata": None}
    if pixel_size is not None:
        options |= {"resolution": tuple(10_000 / side for side in pixel_size), "resolutionunit": "CENTIMETER"}
    with whole_file(path) as partial:
        if max(height, width) <= UNTILED_SIDE:
            tifffile.imwrite(partial, _paint(instances, boxes, drawn, (0, height), dtype), **options)
            return
        tifffile.imwrite(
            partial,
            _tiles(instances, boxes, drawn, dtype),
            shape=(height, width),
            dtype=dtype,
            tile=(TILE, TILE),
            bigtiff=height * width * dtype().itemsize > CLASSIC_BYTES,
            **options,
        )


def _tiles(
    instances: CellInstances, boxes: Ints, drawn: NDArray[np.int64], dtype: type[np.unsignedinteger[Any]]
) -> Iterator[bytes]:
    """Tiles row by row, encoded; where the image ends they are filled up with 0."""
    height, width = instances.image_size
    empty = _encoded(np.zeros((TILE, TILE), dtype))
    for top in range(0, height, TILE):
        rows = top, min(top + TILE, height)
        band = _paint(instances, boxes, drawn, rows, dtype)
        for left in range(0, width, TILE):
            part = band[:, left : left + TILE]
            if not part.any():  # glass around tissue is encoded once
                yield empty
                continue
            tile = np.zeros((TILE, TILE), dtype)
            tile[: part.shape[0], : part.shape[1]] = part
            yield _encoded(tile)


def _encoded(tile: NDArray[np.unsignedinteger[Any]]) -> bytes:
    """As TIFF's compression ``zlib`` has it; libdeflate takes half the time of zlib."""
    return bytes(imagecodecs.deflate_encode(tile.tobytes()))


def _paint(
    instances: CellInstances,
    boxes: Ints,
    drawn: NDArray[np.int64],
    rows: tuple[int, int],
    dtype: type[np.unsignedinteger[Any]],
) -> NDArray[np.unsignedinteger[Any]]:
    """Some rows, half open, of the label map of some cells; ``boxes`` are the masks' of all cells."""
    top, bottom = rows
    band = np.zeros((bottom - top, instances.image_size[1]), dtype)
    chosen = drawn[(boxes[drawn, 1] < bottom) & (boxes[drawn, 3] > top)]
    for number, (x0, y0, x1, y1) in zip(chosen.tolist(), boxes[chosen].tolist()):
        first, last = max(y0, top), min(y1, bottom)
        band[first - top : last - top, x0:x1][instances.masks[number][first - y0 : last - y0]] = number + 1
    return band
