"""The tiles of a TIFF as an array that is sliced: of those that a window needs each is decoded once, in this thread.

tifffile's Zarr view does this for every layout, but takes longer for a tile than its decoder does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellseg_d2.images.tiff import JPEG


class TiledPage:
    """One page of tiles at full resolution.

    Args:
        page: tifffile's page of an open file, for which :meth:`fits` is true.

    Attributes:
        shape: (height, width), or (height, width, samples) of a page with several samples a pixel.
        chunks: the shape of the tiles, with as many numbers.
    """

    def __init__(self, page: Any) -> None:
        self._page = page
        self.shape: tuple[int, ...] = page.shape
        self.chunks: tuple[int, ...] = (page.tilelength, page.tilewidth, *self.shape[2:])
        coded = page.compression in JPEG
        self._tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if coded else {}

    @staticmethod
    def fits(series: Any) -> bool:
        """Whether a series of tifffile is one such page, whose samples lie together."""
        page = series.keyframe
        contiguous = page.planarconfig == tifffile.PLANARCONFIG.CONTIG and page.imagedepth == 1
        alone = len(series.pages) == 1 and series.shape == page.shape and series.axes in ("YX", "YXS")
        return bool(page.is_tiled and contiguous and alone)

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        """A window: slices of rows and columns, both with a start and a stop inside the page, and one of samples."""
        (y0, y1), (x0, x1) = ((part.start, part.stop) for part in index[:2])
        height, width = self.chunks[:2]
        result = np.full((y1 - y0, x1 - x0, *self.shape[2:]), self._page.nodata, self._page.dtype)
        for top in range(y0 - y0 % height, y1, height):
            for left in range(x0 - x0 % width, x1, width):
                tile = self._tile(top // height, left // width)
                if tile is None:
                    continue
                rows, columns = slice(max(y0, top), min(y1, top + height)), slice(max(x0, left), min(x1, left + width))
                part = tile[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                result[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = part
        whole: tuple[Any, ...] = (slice(None), slice(None))
        window: NDArray[Any] = result[whole + index[2:]]
        return window

    def _tile(self, row: int, column: int) -> NDArray[Any] | None:
        """A tile, cut where the page ends; None for one that was never written."""
        number = row * -(-self.shape[1] // self.chunks[1]) + column
        count = self._page.databytecounts[number]
        if not count:
            return None
        file = self._page.parent.filehandle
        file.seek(self._page.dataoffsets[number])
        coded = file.read(count)  # before the decoder is made, which reads from the file too
        pixels, _, shape = self._page.decode(coded, number, **self._tables)
        tile: NDArray[Any] = pixels.reshape(*shape[1:3], *self.shape[2:])
        return tile
