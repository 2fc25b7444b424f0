"""Multiplexed images: cells in several channels, whose class only the last one tells."""

from pathlib import Path

import numpy as np
from drawing import write_sample
from numpy.typing import NDArray

NAMES = ("DAPI", "CD3", "CD8", "Ki67")

CHANNEL_OPTIONS = {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": list(NAMES)}}}
"""How tifffile writes (4, H, W) with these names."""


def draw_multiplexed(
    rng: np.random.Generator, side: int, columns: int
) -> tuple[NDArray[np.uint8], dict[int, NDArray[np.int32]]]:
    """(4, side, side) uint8, and a label map per class; the two classes differ in stripes in the last channel alone."""
    image = rng.integers(0, 40, (len(NAMES), side, side), dtype=np.uint8)
    maps = {number: np.zeros((side, side), np.int32) for number in (1, 2)}
    y, x = np.mgrid[:side, :side]
    step = side // columns
    numbers = rng.permutation(np.arange(columns**2) % 2 + 1)
    for cell in range(columns**2):
        row, column = divmod(cell, columns)
        radius = rng.uniform(0.22, 0.38) * step
        inside = (y - (row + 0.5) * step) ** 2 + (x - (column + 0.5) * step) ** 2 <= radius**2
        number = int(numbers[cell])
        maps[number][inside] = cell + 1
        image[:3, inside] += 120
        if number == 2:
            image[3, inside & (x % 6 < 3)] += 200
    return image, maps


def write_multiplexed(root: Path, images: int, side: int, columns: int) -> None:
    """Samples of the input layout, with names of channels."""
    rng = np.random.default_rng(0)
    for number in range(images):
        write_sample(root, f"image{number}", *draw_multiplexed(rng, side, columns), **CHANNEL_OPTIONS)
