"""Images dense with cells, drawn from a seed: what no clone can hold and every benchmark needs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

BACKGROUND, NUCLEUS = (224, 180, 205), (112, 72, 140)
"""RGB of stained tissue and of nuclei in it, as in H&E images."""


def dense_cells(
    side: int, count: int, classes: int, radius: tuple[float, float], seed: int
) -> tuple[NDArray[np.uint8], list[NDArray[np.int32]]]:
    """An H&E-like image and its label maps: ellipses on a jittered grid, so that none covers another.

    Args:
        side: the image's side length in pixels.
        count: number of cells, over all classes.
        classes: the cells are dealt out to them in turn.
        radius: least and largest, in pixels; cut where the grid is too narrow for it.
        seed: random seed for everything that is drawn.

    Returns:
        (side, side, 3) uint8 RGB, and a (side, side) int32 label map a class.
    """
    rng = np.random.default_rng(seed)
    columns = int(np.ceil(np.sqrt(count)))
    step = side / columns
    maps = [np.zeros((side, side), np.int32) for _ in range(classes)]
    image = np.full((side, side, 3), BACKGROUND, np.uint8)
    for number in range(count):
        row, column = divmod(number, columns)
        axes = np.minimum(rng.uniform(*radius, 2), step / 2 - 1)
        slack = step / 2 - axes.max()
        centre = ((np.array([column, row]) + 0.5) * step + rng.uniform(-slack, slack, 2)).round().astype(int).tolist()
        angle = float(rng.uniform(0, 180))
        shape = (centre, axes.astype(int).tolist(), angle, 0, 360)
        for canvas, value in ((maps[number % classes], (number + 1,)), (image, NUCLEUS)):
            cv2.ellipse(canvas, *shape, value, thickness=-1)
    texture = cv2.GaussianBlur(rng.normal(0, 60, (side, side, 1)).astype(np.float32), (0, 0), 3)[..., None]
    grain = rng.normal(0, 5, (side, side, 3)).astype(np.float32)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1) + texture + grain, 0, 255).astype(np.uint8), maps


def write_sample(
    root: Path, name: str, image: NDArray[np.uint8], maps: list[NDArray[np.int32]], compression: str | None = "lzw"
) -> None:
    """Writes an image, LZW-compressed, and its label maps in the input layout of ``tools/convert_tifs.py``."""
    folder = root / "train" / name
    folder.mkdir(parents=True)
    tifffile.imwrite(folder / "image.tif", image, photometric="rgb", compression="lzw")
    for number, labels in enumerate(maps, start=1):
        tifffile.imwrite(folder / f"class{number}.tif", labels, compression=compression)
