"""Where an image is cut: windows for training tiles, and cores with a halo for prediction.

A window is (x0, y0, x1, y1), half open, in pixels of the full image. No window reaches outside the image: the last one
of a row or column is short, never shifted back and never padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Window = tuple[int, int, int, int]


def overlap_pixels(tile_size: int, overlap: float) -> int:
    """Pixels that two neighbouring tiles share, from the overlap as a share of the tile size in [0, 1)."""
    if tile_size < 1:
        raise ValueError(f"tile_size must be at least 1, not {tile_size}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be in [0, 1), not {overlap}")
    return min(round(tile_size * overlap), tile_size - 1)


def halo_pixels(tile_size: int, overlap: float) -> int:
    """The halo around a core: half of the pixels that two neighbouring tiles share, and less than half a tile."""
    return min(round(tile_size * overlap / 2), (tile_size - 1) // 2)


def tile_windows(height: int, width: int, tile_size: int, overlap: float = 0.0) -> list[Window]:
    """The windows that a (height, width) image is cut into for training, row by row.

    Neighbours share ``round(tile_size * overlap)`` pixels; with ``overlap=0`` the windows partition the image.

    >>> tile_windows(5, 7, tile_size=4)
    [(0, 0, 4, 4), (4, 0, 7, 4), (0, 4, 4, 5), (4, 4, 7, 5)]
    """
    stride = tile_size - overlap_pixels(tile_size, overlap)
    return [
        (x, y, min(x + tile_size, width), min(y + tile_size, height))
        for y in _starts(height, tile_size, stride)
        for x in _starts(width, tile_size, stride)
    ]


def _starts(length: int, tile_size: int, stride: int) -> range:
    """First pixels of the tiles along one axis; a tile that an earlier one covers whole is left out."""
    if length < 1:
        raise ValueError(f"an image side must be at least 1 pixel, not {length}")
    return range(0, max(length - tile_size + stride, 1), stride)


@dataclass(frozen=True)
class Tile:
    """One tile of a :class:`TileGrid`: the model sees ``window``, the tile answers for ``core``."""

    core: Window
    window: Window


class TileGrid:
    """Disjoint cores that partition an image, each seen with a halo around it.

    A core has a side of ``tile_size - 2 * halo``, a window is its core grown by ``halo`` and clipped to the image. An
    image that fits into one tile is one core without a halo.

    Args:
        height, width: the image's size in pixels.
        tile_size: the largest side of a window in pixels.
        overlap: share of the tile size that two neighbouring windows have in common, in [0, 1).

    >>> [tile.core for tile in TileGrid(4, 10, tile_size=6, overlap=0.34)]
    [(0, 0, 4, 4), (4, 0, 8, 4), (8, 0, 10, 4)]
    >>> TileGrid(4, 10, tile_size=6, overlap=0.34)[1].window
    (3, 0, 9, 4)
    """

    def __init__(self, height: int, width: int, tile_size: int, overlap: float) -> None:
        overlap_pixels(tile_size, overlap)
        self.height, self.width = height, width
        fits = height <= tile_size and width <= tile_size
        self.halo = 0 if fits else halo_pixels(tile_size, overlap)
        self.core_size = tile_size - 2 * self.halo
        self._cores = tile_windows(height, width, self.core_size)

    def __len__(self) -> int:
        return len(self._cores)

    def __getitem__(self, index: int) -> Tile:
        x0, y0, x1, y1 = core = self._cores[index]
        window = (
            max(x0 - self.halo, 0),
            max(y0 - self.halo, 0),
            min(x1 + self.halo, self.width),
            min(y1 + self.halo, self.height),
        )
        return Tile(core, window)

    def __iter__(self) -> Iterator[Tile]:
        return (self[index] for index in range(len(self)))
