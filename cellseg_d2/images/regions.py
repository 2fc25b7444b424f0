"""Reads windows of an image of any size, as RGB or the channels asked for, without the whole image in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.tiling import Window
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.intensity import IntensityRule, rules_of
from cellseg_d2.images.pixel_size import PixelSize
from cellseg_d2.images.planes import Plane
from cellseg_d2.images.sources import PixelSource
from cellseg_d2.images.tiff import damage_reported, warn_of_alpha

CACHE_BYTES = 2**28
"""Bytes of decoded and scaled blocks to keep, so that overlapping windows decode a chunk once or twice, not often."""


@dataclass
class ImageHeader:
    """What an image's header states.

    Attributes:
        size: (height, width) in pixels.
        pixel_size_um: (x, y) in microns per pixel; None where the file states none.
    """

    size: tuple[int, int]
    pixel_size_um: PixelSize | None


class ImageRegions(ImageHeader, ABC):
    """An open image that is read by windows, by one thread at a time; a context manager that closes its file.

    Attributes:
        size: (height, width) in pixels.
        pixel_size_um: (x, y) in microns per pixel; None where the file states none.
        channels: how many are read: 3, RGB, unless others are asked for.
    """

    channels: int

    def read(self, window: Window) -> NDArray[np.uint8]:
        """One window, (h, w, channels) uint8, a new array.

        Args:
            window: inside the image, not empty.

        Raises:
            CellSegError: the file is damaged, or holds complex, NaN or infinite intensities.
        """
        x0, y0, x1, y1 = window
        height, width = self.size
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(f"the window {window} is not inside an image of {height} x {width}")
        return self._read(window)

    @abstractmethod
    def _read(self, window: Window) -> NDArray[np.uint8]:
        """One window, which is inside the image."""

    def close(self) -> None:  # an image in memory has nothing to close
        """Closes the file; no window can be read any more."""

    def __enter__(self) -> ImageRegions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class WholeImage(ImageRegions):
    """An image in memory.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W, C).
        pixel_size_um: as the attribute.
    """

    def __init__(self, image: NDArray[np.uint8], pixel_size_um: PixelSize | None = None) -> None:
        super().__init__((image.shape[0], image.shape[1]), pixel_size_um)
        self.channels = image.shape[2]
        self._image = image

    def _read(self, window: Window) -> NDArray[np.uint8]:
        x0, y0, x1, y1 = window
        return self._image[y0:y1, x0:x1].copy()


class BlockImage(ImageRegions):
    """An image whose blocks are decoded when a window needs them, and kept for the next windows.

    Percentiles for scaling to 8 bit are those of the whole image. So before the first window all of it is read, block
    by block: once for 16-bit images, twice for 32-bit ones.

    Args:
        source: the open file; closed by :meth:`close`.
        rule: see :func:`cellseg_d2.images.intensity.rules_of`; the source has its channels.
        cache_bytes: bytes of decoded blocks to keep; the latest block is always kept.
    """

    def __init__(self, source: PixelSource, rule: Rule, cache_bytes: int = CACHE_BYTES) -> None:
        super().__init__(source.plane.size, source.pixel_size_um)
        self.channels = source.plane.channel_count
        self._source = source
        self._rules = rules_of(rule)
        self._cache_bytes = cache_bytes
        self._blocks: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self._kept_bytes = 0
        self._alpha_told = False

    def close(self) -> None:
        """Closes the file and frees the blocks."""
        self._blocks.clear()
        self._kept_bytes = 0
        self._source.open_files.close()

    def _read(self, window: Window) -> NDArray[np.uint8]:
        x0, y0, x1, y1 = window
        step_y, step_x = self._source.block
        result = np.empty((y1 - y0, x1 - x0, self.channels), np.uint8)
        for top in range(y0 - y0 % step_y, y1, step_y):
            for left in range(x0 - x0 % step_x, x1, step_x):
                block = self._block(top, left)
                rows = slice(max(y0, top), min(y1, top + step_y))
                columns = slice(max(x0, left), min(x1, left + step_x))
                part = block[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                result[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = part
        return result

    def _block(self, top: int, left: int) -> NDArray[np.uint8]:
        """The block that begins at a row and column, (h, w, C) uint8, C = 1 for grey, from the cache or the file."""
        block = self._blocks.get((top, left))
        if block is None:
            height, width = self.size
            step_y, step_x = self._source.block
            colours = self._decode(
                (left, top, min(left + step_x, width), min(top + step_y, height)), self._source.plane
            )
            block = np.ascontiguousarray(self._source.plane.rgb(self._scaled(colours)))
            self._blocks[top, left] = block
            self._kept_bytes += block.nbytes
            while self._kept_bytes > self._cache_bytes and len(self._blocks) > 1:
                self._kept_bytes -= self._blocks.popitem(last=False)[1].nbytes
        self._blocks.move_to_end((top, left))
        return block

    def _scaled(self, colours: NDArray[Any]) -> NDArray[np.uint8]:
        if colours.dtype == np.uint8:
            return colours
        if not self._source.plane.picked:
            return IntensityRule.scale(colours, self._limits[0])
        parts = [IntensityRule.scale(colours[..., place], limits) for place, limits in enumerate(self._limits)]
        return np.stack(parts, axis=2)

    @cached_property
    def _limits(self) -> list[tuple[float, float]]:
        """The intensities of the whole image that become 0 and 255: of all channels, or of each that is picked."""
        plane, (height, width) = self._source.plane, self.size
        planes = [replace(plane, picked=(place,)) for place in plane.picked] or [plane]
        return [
            rule.limits(partial(self._all_blocks, one), height * width * one.colour_count)
            for rule, one in zip(self._rules, planes)
        ]

    def _all_blocks(self, plane: Plane) -> Iterator[NDArray[Any]]:
        height, width = self.size
        step_y, step_x = self._source.block
        for y in range(0, height, step_y):
            for x in range(0, width, step_x):
                yield self._decode((x, y, min(x + step_x, width), min(y + step_y, height)), plane)

    def _decode(self, window: Window, plane: Plane) -> NDArray[Any]:
        """A window's values as the file has them, without alpha."""
        with damage_reported(plane.path, self._source.kind):
            pixels, opaque = plane.colours(plane.cut(self._source.array, window))
        if not opaque and not self._alpha_told:
            self._alpha_told = True
            warn_of_alpha(plane.path)
        return pixels
