"""What a TIFF's header decides before a pixel is read: which directories count, which way is up, what is missing."""

from __future__ import annotations

import logging
import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import tifffile

from cellseg_d2.errors import CellSegError
from cellseg_d2.images.lossless import lossy_compression, may_be_lossy
from cellseg_d2.images.planes import Turn

logger = logging.getLogger(__name__)

MAX_DIRECTORIES = 4096
"""Files with more pages are refused: they are stacks, not a single plane, and listing their pages takes minutes."""

ORIENTATIONS: dict[int, Turn] = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""What turns an image upright, per value of the tag Orientation (TIFF 6.0, page 36)."""


@contextmanager
def open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Opens a TIFF, once for all checks; of a set of OME-TIFFs that belong together, the file's own pages alone.

    Raises:
        CellSegError: its directories form a cycle, or are more than ``MAX_DIRECTORIES``.
    """
    with path.open("rb") as opened:
        _check_directories(path, opened)
        file = tifffile.TiffFile(opened, offset=0)
        if file.is_ome and _is_part_of_a_set(path, file.pages.first.description):
            # tifffile would read the other files' planes, and blank ones in place of files that are missing
            file = tifffile.TiffFile(opened, offset=0, is_ome=False)
        with file:
            yield file


def _check_directories(path: Path, file: BinaryIO) -> None:
    """Follows the chain of a TIFF's directories, reading nothing but their lengths; what is no TIFF passes.

    Raises:
        CellSegError: the chain comes back to a directory, or is longer than ``MAX_DIRECTORIES``.
    """
    header = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None or len(header) < 16:
        return
    big = struct.unpack(f"{order}H", header[2:4])[0] == 43
    size = os.fstat(file.fileno()).st_size
    count_format, entry_bytes, next_format = ("Q", 20, "Q") if big else ("H", 12, "I")
    start = header[8:16] if big else header[4:8]
    seen: set[int] = set()
    while len(start) == struct.calcsize(next_format):
        (offset,) = struct.unpack(order + next_format, start)
        if offset == 0 or offset >= size:
            return
        if offset in seen:
            raise CellSegError(f"{path}: its list of pages goes round in a circle; export it again")
        if len(seen) == MAX_DIRECTORIES:
            raise CellSegError(f"{path}: holds more than {MAX_DIRECTORIES} pages; save one plane")
        seen.add(offset)
        file.seek(offset)
        count = file.read(struct.calcsize(count_format))
        if len(count) < struct.calcsize(count_format):
            return
        end = file.tell() + struct.unpack(order + count_format, count)[0] * entry_bytes
        if end >= size:
            return
        file.seek(end)
        start = file.read(struct.calcsize(next_format))


def _is_part_of_a_set(path: Path, xml: str) -> bool:
    """Whether OME-XML names other files for its planes; the file itself may have been renamed.

    https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html#distribution-across-multiple-files
    """
    root = re.search(r"<(?:\w+:)?OME\b[^>]*\bUUID=[\"']([^\"']+)", xml)
    files = re.findall(r"<(?:\w+:)?UUID\b[^>]*?(?:FileName=[\"']([^\"']*)[\"'][^>]*)?>\s*([^<\s]*)", xml)
    if root:
        return any(uuid != root[1] for _, uuid in files)
    return any(name != path.name for name, _ in files if name)


def orientation(page: Any) -> Turn:
    """What turns the stored pixels upright, see ``ORIENTATIONS``; unknown values count as upright."""
    value = page.tags.valueof("Orientation", 1)
    return ORIENTATIONS.get(value if isinstance(value, int) else 1, ORIENTATIONS[1])


def check_segments(path: Path, series: Any, is_label_map: bool) -> None:
    """Checks that the strips or tiles of an image are in the file.

    A tile without offset and bytes is a blank one of a sparse file: an image with such tiles is warned of.

    Args:
        path: for messages.
        series: tifffile's image.
        is_label_map: blank tiles are refused.

    Raises:
        CellSegError: a plane, a strip or a tile is missing.
    """
    blank = total = 0
    for page in series.pages:
        if page is None:
            raise CellSegError(f"{path}: one of its planes is in no file; export it again")
        pairs = list(zip(page.dataoffsets, page.databytecounts))
        missing = sum(bool(offset) != bool(count) for offset, count in pairs)
        missing += max(0, math.prod(page.chunked) - len(pairs))
        if missing:
            raise CellSegError(f"{path}: {missing} of its strips or tiles have no bytes; copy or export it again")
        blank += sum(not count for _, count in pairs)
        total += len(pairs)
    if blank and is_label_map:
        raise CellSegError(f"{path}: {blank} of {total} strips or tiles are left out; save it with all of them")
    if blank:
        logger.warning("%s: %d of %d strips or tiles are left out; they are read as 0", path, blank, total)


def check_lossless(path: Path, file: tifffile.TiffFile, page: Any) -> None:
    """Refuses a label map whose compression changes values.

    Raises:
        CellSegError: naming the compression.
    """
    first = next((pair for pair in zip(page.dataoffsets, page.databytecounts) if all(pair)), None)
    if first is None or not may_be_lossy(page.compression):  # else the first strip is read twice
        return
    file.filehandle.seek(first[0])
    lossy = lossy_compression(page.compression, file.filehandle.read(first[1]))
    if lossy:
        raise CellSegError(
            f"{path}: is compressed with {lossy}, which changes the ids of cells; save label maps with LZW or deflate"
        )
