"""Datasets of other channels than RGB: their statistics, and the files of their images."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Ints
from cellseg_d2.cells.coco import Record

CHANNELS_SUFFIX = ".tif"
"""A PNG of two or four channels would be one with transparency, and PNG has no place for the channels' names."""

MOST_COLOURS = 7
"""Channels that ImageJ shows at once, each in a colour."""

VALUES = np.arange(256)


def encode_channels(image: NDArray[np.uint8], names: Sequence[str]) -> bytes:
    """The content of a TIFF that Fiji, napari and QuPath open as channels with names.

    Args:
        image: (H, W, C).
        names: one per channel; :func:`cellseg_d2.images.channels.pick` finds them again.
    """
    file = io.BytesIO()
    mode = "composite" if len(names) <= MOST_COLOURS else "grayscale"
    tifffile.imwrite(
        file,
        np.moveaxis(image, 2, 0)[..., None],  # with one sample a pixel, for which a width of 1 would be taken otherwise
        imagej=True,
        photometric="minisblack",
        metadata={"axes": "CYXS", "mode": mode, "Labels": list(names)},
        compression="zlib",
        compressionargs={"level": 1},
        predictor=True,
    )
    return file.getvalue()


def channel_sums(image: NDArray[np.uint8]) -> Ints:
    """(C, 3) int64 per channel of an (H, W, C) image: the pixels, the sum of their values, and of their squares."""
    counts = [np.bincount(image[..., channel].reshape(-1), minlength=256) for channel in range(image.shape[2])]
    return np.array([(count.sum(), count @ VALUES, count @ VALUES**2) for count in counts], np.int64)


def channel_statistics(names: Sequence[str], sums: Sequence[Ints]) -> list[Record]:
    """Name, mean and standard deviation of each channel over all pixels of some images, on the scale 0..255.

    Args:
        names: C names.
        sums: :func:`channel_sums` of each image; at least one.
    """
    found = []
    for name, (pixels, total, squares) in zip(names, np.sum(sums, axis=0).tolist()):
        mean = total / pixels
        found.append({"name": name, "mean": round(mean, 3), "std": round((squares / pixels - mean**2) ** 0.5, 3)})
    return found
