"""Drawn cells: hypothesis strategies, and sample folders in the input layout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as mask_util

drawn = settings(deadline=None, max_examples=60, derandomize=True)
"""For everything that only computes."""

written = settings(deadline=None, max_examples=12, derandomize=True)
"""For what writes files in each example."""

LARGEST_ID = 2**31 - 1


@st.composite
def label_maps(draw: st.DrawFn, max_side: int = 24, shape: tuple[int, int] | None = None) -> NDArray[np.int32]:
    """Overlapping rectangles over nothing or over salt of single pixels, with ids of any size that int32 holds."""
    sides = st.integers(1, max_side)
    height, width = shape or (draw(sides), draw(sides))
    ids = draw(st.sampled_from([(1, 2, 3, 4, 5), (1, 3, 65_535, 65_536, 70_000), (2, 2**24 + 1, LARGEST_ID)]))
    if draw(st.booleans()):
        label_map = draw(hnp.arrays(np.int32, (height, width), elements=st.sampled_from((0, *ids)), fill=st.just(0)))
    else:
        label_map = np.zeros((height, width), np.int32)
    for _ in range(draw(st.integers(0, 6))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        y1, x1 = draw(st.integers(y + 1, height)), draw(st.integers(x + 1, width))
        label_map[y:y1, x:x1] = draw(st.sampled_from((0, *ids)))
    return label_map


@st.composite
def overlapping_masks(draw: st.DrawFn, max_side: int = 16, min_count: int = 0) -> list[NDArray[np.bool_]]:
    """Masks of one image that have at least one pixel each and overlap as they like."""
    shape = draw(st.tuples(st.integers(1, max_side), st.integers(1, max_side)))
    masks = draw(st.lists(hnp.arrays(np.bool_, shape), min_size=min_count, max_size=6))
    for mask in masks:
        mask[draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))] = True
    return masks


def pycocotools_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """What everybody else's code does for one cell."""
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def discs(rng: np.random.Generator, height: int, width: int, count: int, radius: int = 5) -> NDArray[np.int32]:
    """A label map of round cells; a later one covers part of an earlier one."""
    label_map = np.zeros((height, width), np.int32)
    y, x = np.mgrid[:height, :width]
    for number in range(1, count + 1):
        centre, size = rng.integers(0, (height, width)), rng.integers(2, radius + 1)
        label_map[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= size**2] = number
    return label_map


def noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def places(grid: NDArray[np.uint8], picture: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Where a picture lies in a larger one, pixel for pixel: (x, y), the leftmost first."""
    windows = np.lib.stride_tricks.sliding_window_view(grid, picture.shape)[:, :, 0]
    error = cv2.matchTemplate(np.ascontiguousarray(grid), np.ascontiguousarray(picture), cv2.TM_SQDIFF)
    likely = error <= 1e-4 * picture.size * 255**2  # it counts in floats
    return sorted((int(x), int(y)) for y, x in np.argwhere(likely) if (windows[y, x] == picture).all())


def write_sample(
    root: Path, name: str, image: NDArray[Any], label_maps: Mapping[int, NDArray[Any]], **options: Any
) -> Path:
    """Writes ``root/train/<name>/image.tif`` and its class files, and gives their folder."""
    folder = root / "train" / name
    folder.mkdir(parents=True)
    tifffile.imwrite(folder / "image.tif", image, **options)
    for number, label_map in label_maps.items():
        tifffile.imwrite(folder / f"class{number}.tif", label_map)
    return folder


def write_test_images(root: Path, images: Mapping[str, NDArray[Any]], ids: Sequence[Mapping[str, Any]] | None) -> None:
    """Writes ``root/test_release/<file name>`` and, where given, the id file."""
    folder = root / "test_release"
    folder.mkdir(parents=True)
    for name, image in images.items():
        tifffile.imwrite(folder / name, image)
    if ids is not None:
        (root / "test_image_name_to_ids.json").write_text(json.dumps(ids))


def decode_annotations(annotations: Iterable[Mapping[str, Any]], size: tuple[int, int]) -> dict[int, NDArray[np.int32]]:
    """Label maps by category id, decoded by pycocotools; fails where two cells of a category share a pixel."""
    decoded: dict[int, NDArray[np.int32]] = {}
    for annotation in annotations:
        label_map = decoded.setdefault(annotation["category_id"], np.zeros(size, np.int32))
        mask = mask_util.decode(annotation["segmentation"]).astype(bool)
        assert mask.shape == size
        assert not label_map[mask].any()
        label_map[mask] = annotation["label"]
    return decoded


def read_folder(folder: Path) -> dict[str, bytes]:
    """Every file's content by its path below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_drawn_dataset(root: Path, images: int = 8, side: int = 96, cells: int = 9) -> None:
    """Samples of the input layout with ``cells`` round cells each, apart from each other, in two classes."""
    rng = np.random.default_rng(0)
    columns = int(np.ceil(np.sqrt(cells)))
    step = side // columns
    y, x = np.mgrid[:side, :side]
    for number in range(images):
        image = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
        maps = {1: np.zeros((side, side), np.int32), 2: np.zeros((side, side), np.int32)}
        for cell in range(cells):
            row, column = divmod(cell, columns)
            radius = rng.uniform(0.2, 0.4) * step
            inside = (y - (row + 0.5) * step) ** 2 + (x - (column + 0.5) * step) ** 2 <= radius**2
            maps[1 + cell % 2][inside] = cell + 1
            image[inside] = (200, 60, 160) if cell % 2 else (90, 200, 120)
        write_sample(root, f"image{number}", image, maps)
