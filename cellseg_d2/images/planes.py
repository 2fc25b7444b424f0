"""The one plane of grey or colour pixels in an array of microscopy data, whatever the order of its axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.tiling import Window
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import pick

Turn = tuple[bool, bool, bool]
"""What turns a stored array upright: whether its rows are the picture's columns, and whether its rows and then its
columns are to be reversed afterwards."""

NO_RGB = {
    "PALETTE": "a colour palette",
    "SEPARATED": "CMYK colours",
    "YCBCR": "YCbCr colours that are not JPEG's",
    "CIELAB": "CIELAB colours",
    "ICCLAB": "ICCLAB colours",
    "ITULAB": "ITULAB colours",
}
"""Photometric interpretations (tifffile's names) whose values are neither RGB nor grey."""


@dataclass(frozen=True)
class Plane:
    """Where an array keeps an image's rows, columns and channels; every other axis has length 1.

    Attributes:
        path: the file, for messages.
        shape: the array's shape.
        y: number of the axis of rows.
        x: number of the axis of columns.
        channel: number of the axis of channels; None where there is none.
        photometric: what the values mean, by tifffile's name.
        flipped: whether the rows, and whether the columns, are stored from the last to the first.
        picked: the places of the channels that are read, in their order; empty for grey or RGB as stored.
    """

    path: Path
    shape: tuple[int, ...]
    y: int
    x: int
    channel: int | None
    photometric: str
    flipped: tuple[bool, bool] = (False, False)
    picked: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        path: Path,
        axes: str,
        shape: Sequence[int],
        photometric: str,
        turn: Turn = (False, False, False),
        wanted: Sequence[str] | None = (),
        names: Sequence[str] = (),
    ) -> Plane:
        """The plane of an array whose axes have tifffile's letters.

        Args:
            path: the file, for messages.
            axes: a letter per axis.
            shape: the array's shape.
            photometric: tifffile's name of what the values mean.
            turn: what turns the array upright.
            wanted: the channels to read, see :func:`cellseg_d2.images.channels.pick`; empty for grey or RGB; None
                where only the size is asked for, so that there may be any.
            names: the channels' names, where the file states them.

        Raises:
            CellSegError: it has pages or channels that are not wanted, lacks one that is, or is of another colour
                space.
        """
        if 0 in shape:
            raise CellSegError(f"{path}: is {describe_shape(shape)}, without a pixel; export it again")
        if photometric in NO_RGB:
            raise CellSegError(f"{path}: has {NO_RGB[photometric]}; save it as RGB")
        kept = "".join(axis for axis, side in zip(axes, shape) if axis in "YX" or side > 1)
        as_stored = wanted is not None and not wanted
        letters = "SC" if as_stored else "SCQI"  # pages of no stated kind are channels where channels are asked for
        channel_axis = next((axis for axis in letters if axis in kept), "")
        if sorted(kept.replace(channel_axis, "")) != ["X", "Y"]:
            raise CellSegError(
                f"{path}: has the axes {describe_axes(axes, shape)}; save one plane as grey, RGB or RGBA"
            )
        channel = axes.index(channel_axis) if channel_axis else None
        channels = 1 if channel is None else shape[channel]
        is_rgba = channels == 4 and (photometric, channel_axis) == ("RGB", "S")
        if as_stored and channels not in (1, 3) and not is_rgba:
            raise CellSegError(
                f"{path}: has {channels} channels (axes {describe_axes(axes, shape)}) that are not stated to be RGBA, "
                "where 1 or 3 are wanted; pick some with --channels, or save one channel as grey, or three as RGB"
            )
        picked = pick(path, wanted, names, channels) if wanted else ()
        y, x = axes.index("Y"), axes.index("X")
        transposed, rows, columns = turn
        y, x = (x, y) if transposed else (y, x)
        return cls(path, tuple(shape), y, x, channel, photometric, (rows, columns), picked)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.shape[self.y], self.shape[self.x]

    @property
    def channel_count(self) -> int:
        """Channels of the image that is made of it: 3 for grey and RGB, else as many as are picked."""
        return len(self.picked) or 3

    @property
    def colour_count(self) -> int:
        """Channels as stored, without alpha and without those that are not picked."""
        if self.picked:
            return len(self.picked)
        return 1 if self.channel is None else min(self.shape[self.channel], 3)

    def cut(self, array: Any, window: Window) -> NDArray[Any]:
        """Cuts a window out of an array of this shape: (h, w, channels) of its type in native byte order.

        Args:
            array: anything that can be sliced as a numpy array.
            window: inside the image.
        """
        if self.picked and self.channel is not None and self.channel < max(self.y, self.x):  # each is stored by itself
            parts = [self._cut(array, window, place) for place in self.picked]
            return np.concatenate(parts, axis=2)
        pixels = self._cut(array, window, slice(None))
        return pixels[..., list(self.picked)] if self.picked else pixels

    def _cut(self, array: Any, window: Window, channel: slice | int) -> NDArray[Any]:
        x0, y0, x1, y1 = self._stored(window)
        index: list[Any] = [0] * len(self.shape)
        index[self.y], index[self.x] = slice(y0, y1), slice(x0, x1)
        if self.channel is not None:
            index[self.channel] = slice(channel, channel + 1) if isinstance(channel, int) else channel
        cut = np.asarray(array[tuple(index)])
        kept = sorted([self.y, self.x] if self.channel is None else [self.y, self.x, self.channel])
        order = [kept.index(self.y), kept.index(self.x)]
        order += [] if self.channel is None else [kept.index(self.channel)]
        pixels = cut.transpose(order).reshape(y1 - y0, x1 - x0, -1)
        pixels = flipped(pixels, self.flipped)
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)

    def _stored(self, window: Window) -> Window:
        """Where a window lies in rows and columns as they are stored."""
        x0, y0, x1, y1 = window
        height, width = self.size
        y0, y1 = (height - y1, height - y0) if self.flipped[0] else (y0, y1)
        x0, x1 = (width - x1, width - x0) if self.flipped[1] else (x0, x1)
        return x0, y0, x1, y1

    def colours(self, pixels: NDArray[Any]) -> tuple[NDArray[Any], bool]:
        """The result of :meth:`cut` without alpha and with 0 and 255 for bilevel values; and whether alpha was opaque.

        Raises:
            CellSegError: complex, NaN or infinite values.
        """
        if not np.isrealobj(pixels) or (pixels.dtype.kind == "f" and not np.isfinite(pixels).all()):
            raise CellSegError(f"{self.path}: holds complex, NaN or infinite intensities; replace them first")
        opaque = bool(self.picked) or pixels.shape[2] < 4 or is_opaque(pixels[..., 3])
        pixels = pixels if self.picked else pixels[..., :3]
        return (pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels), opaque

    def rgb(self, scaled: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Channels scaled to 8 bit, (h, w, C); a min-is-white image is inverted, so that 0 is black."""
        return np.invert(scaled) if self.photometric == "MINISWHITE" else scaled


def flipped(pixels: NDArray[Any], sides: Sequence[bool]) -> NDArray[Any]:
    """(H, W, ...) with its rows, and with its columns, from the last to the first where ``sides`` says so."""
    rows, columns = sides
    return pixels[:: -1 if rows else 1, :: -1 if columns else 1]


def is_opaque(alpha: NDArray[Any]) -> bool:
    """Whether each value is the largest of its type, or at least 1 where the type is float or bilevel."""
    largest = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
    return bool(alpha.min() >= largest)


def describe_axes(axes: str, shape: Sequence[int]) -> str:
    """Axes and lengths for a message, such as ``CYX 2 x 8 x 9``."""
    return f"{axes} {describe_shape(shape)}"


def describe_shape(shape: Sequence[int]) -> str:
    """Lengths for a message, such as ``8 x 9``."""
    return " x ".join(str(side) for side in shape)
