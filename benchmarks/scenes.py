"""Large images of which every cell is known, what each tile of them shows, and what became of the cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.synthetic import dense_cells
from cellseg_d2.annotations.class_tiffs import find_samples
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.tiling import Window, tile_windows
from cellseg_d2.images.listing import find_test_images
from cellseg_d2.images.tiff import INTENSITY_RULE, read_image, read_label_map

SEED = 42
SIDE_OF_20000 = 8192
"""Side of the image that holds 20,000 drawn cells; with fewer it is smaller, so that all are equally dense."""

CELLS_A_PATCH = 1250
SQUARE = 256
"""Side of what is cut out of test images: no test image of the sample is smaller."""


@dataclass(frozen=True)
class Scene:
    """An image of known cells, no two of which share a pixel.

    Attributes:
        labels: (H, W) int32, 1 .. N, 0 is background.
        classes: (N,) int64, contiguous from 0.
    """

    labels: NDArray[np.int32]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.labels.shape[0], self.labels.shape[1]

    def coded(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8: the label in red and green, the class in blue, as :mod:`.stand_in` reads it."""
        if len(self) >= 2**16:
            raise ValueError(f"two channels hold {2**16 - 1} labels, not {len(self)}")
        image = np.empty((*self.size, 3), np.uint8)
        image[..., 0], image[..., 1] = self.labels & 255, self.labels >> 8
        image[..., 2] = np.append(0, self.classes).astype(np.uint8)[self.labels]
        return image

    def middle(self, side: int) -> Scene:
        """The square of that side in the middle, or as much of it as there is."""
        y, x = (max(length - side, 0) // 2 for length in self.size)
        shown = self.labels[y : y + side, x : x + side]
        numbers, places = np.unique(np.append(0, shown), return_inverse=True)
        return Scene(places[1:].reshape(shown.shape).astype(np.int32), self.classes[numbers[1:] - 1])

    def cells(self) -> CellInstances:
        """The cells themselves, in the order of their labels."""
        windows = ndimage.find_objects(self.labels)
        boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in windows], np.int64).reshape(-1, 4)
        masks = [self.labels[window] == number for number, window in enumerate(windows, start=1)]
        scores = np.ones(len(self), np.float32)
        return CellInstances(self.size, boxes.astype(np.float32), scores, self.classes, masks, boxes[:, :2])


def separate_cells(count: int) -> Scene:
    """Drawn cells of one class that touch nowhere, at a density of 20,000 in 8,192 x 8,192 pixels."""
    across = max(round((count / CELLS_A_PATCH) ** 0.5), 1)
    each, rest = divmod(count, across**2)
    if rest:
        raise ValueError(f"{count} cells cannot be dealt out to {across} x {across} equal patches")
    side = round(SIDE_OF_20000 * (count / 20_000) ** 0.5 / across)
    labels = np.zeros((across * side, across * side), np.int32)
    for place in range(across**2):
        _, (patch,) = dense_cells(side, each, 1, (8.0, 16.0), SEED + place)
        y, x = (side * step for step in divmod(place, across))
        labels[y : y + side, x : x + side] = np.where(patch > 0, patch + each * place, 0)
    return Scene(labels, np.zeros(count, np.int64))


def real_cells(data: Path, seed: int) -> Scene:
    """All label maps of an input layout pasted side by side, in an order that the seed decides."""
    parts, classes, count = [], [], 0
    for sample in find_samples(data)[0]:
        combined: NDArray[np.int32] | None = None
        for number, path in sorted(sample.labels.items()):
            labels = read_label_map(path)
            combined = np.zeros_like(labels) if combined is None else combined
            free = (labels > 0) & (combined == 0)  # a pixel that two classes claim is the first one's
            cells, places = np.unique(labels[free], return_inverse=True)
            combined[free] = count + 1 + places
            classes += [number - 1] * len(cells)
            count += len(cells)
        if combined is not None:
            parts.append(combined)
    return Scene(paste_together(parts, seed), np.array(classes, np.int64))


def real_image(data: Path, side: int) -> NDArray[np.uint8]:
    """(side, side, 3) uint8 RGB: squares out of an input layout's test images, shuffled, again and again."""
    images = [image.read(INTENSITY_RULE) for image in find_test_images(data)]
    if not images:
        images = [read_image(sample.image) for sample in find_samples(data)[0]]
    size = min(SQUARE, *(min(image.shape[:2]) for image in images))
    squares = [
        image[y0:y1, x0:x1]
        for image in images
        for x0, y0, x1, y1 in tile_windows(image.shape[0], image.shape[1], size)
        if (x1 - x0, y1 - y0) == (size, size)
    ]
    across = -(-side // size)
    chosen = np.resize(np.random.default_rng(SEED).permutation(len(squares)), across**2)
    rows = np.stack([squares[place] for place in chosen]).reshape(across, across, size, size, 3)
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(across * size, across * size, 3)[:side, :side])


def paste_together(parts: list[NDArray[Any]], seed: int) -> NDArray[Any]:
    """Arrays of different sizes in rows, those of one height shuffled; about square, with zeros where none reaches."""
    shuffled = [parts[place] for place in np.random.default_rng(seed).permutation(len(parts))]
    parts = sorted(shuffled, key=lambda part: -part.shape[0])
    width = max(*(part.shape[1] for part in parts), round(sum(part.shape[0] * part.shape[1] for part in parts) ** 0.5))
    places, x, y, highest = [], 0, 0, 0
    for part in parts:
        if x + part.shape[1] > width:
            x, y, highest = 0, y + highest, 0
        places.append((y, x))
        x, highest = x + part.shape[1], max(highest, part.shape[0])
    result = np.zeros((y + highest, width, *parts[0].shape[2:]), parts[0].dtype)
    for part, (y, x) in zip(parts, places):
        result[y : y + part.shape[0], x : x + part.shape[1]] = part
    return result


def views(cells: CellInstances, windows: Iterable[Window]) -> Iterator[CellInstances]:
    """What a detector that errs nowhere sees in each window: the cells, cut at the window's edge, with drawn scores."""
    rng = np.random.default_rng(SEED)
    boxes = cells.mask_boxes
    for x0, y0, x1, y1 in windows:
        seen = np.flatnonzero((boxes[:, :2] < (x1, y1)).all(axis=1) & (boxes[:, 2:] > (x0, y0)).all(axis=1))
        low = np.maximum(boxes[seen, :2], (x0, y0))
        first, last = low - boxes[seen, :2], np.minimum(boxes[seen, 2:], (x1, y1)) - boxes[seen, :2]
        masks = [
            cells.masks[number][top:foot, left:right]
            for number, (left, top), (right, foot) in zip(seen.tolist(), first.tolist(), last.tolist())
        ]
        view = CellInstances(
            cells.image_size,
            np.concatenate([low, low + last - first], axis=1).astype(np.float32),
            rng.uniform(0.8, 0.9, len(seen)).astype(np.float32),
            cells.classes[seen],
            masks,
            low,
        )
        yield view.trimmed()


@dataclass(frozen=True)
class Faults:
    """What became of the known cells.

    Attributes:
        objects: in the result.
        lost: cells that no object matches with an IoU above a half.
        doubled: cells that more than one object overlaps more than it overlaps any other cell.
        fused: objects that hold over half of each of two or more cells.
    """

    objects: int
    lost: int
    doubled: int
    fused: int


def judge(scene: Scene, found: CellInstances) -> Faults:
    """Counts what was lost, doubled and fused."""
    areas = np.bincount(scene.labels.ravel(), minlength=len(scene) + 1)
    matched, owners, fused = np.zeros(len(scene) + 1, bool), np.zeros(len(scene) + 1, np.int64), 0
    for mask, (x, y) in zip(found.masks, found.origins.tolist()):
        below = scene.labels[y : y + mask.shape[0], x : x + mask.shape[1]][mask]
        numbers, shared = np.unique(below[below > 0], return_counts=True)
        if not len(numbers):
            continue
        owners[numbers[shared.argmax()]] += 1
        matched[numbers[2 * shared > areas[numbers] + np.count_nonzero(mask) - shared]] = True
        fused += int(np.count_nonzero(2 * shared > areas[numbers]) > 1)
    return Faults(len(found), len(scene) - int(matched.sum()), int((owners > 1).sum()), fused)
