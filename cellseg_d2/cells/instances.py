"""The cells of one image, in numpy: what prediction gives and stitching, export and evaluation pass on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools, Ints
from cellseg_d2.cells.rle import Rle, Runs, decode_runs


@dataclass(frozen=True)
class CellInstances:
    """N cells of one image.

    A mask is cropped to its cell, so memory follows the cells' area and never cells x image.

    Attributes:
        image_size: (height, width) of the image in pixels.
        boxes: (N, 4) float32, (x0, y0, x1, y1) in pixels of the image, as the model predicted them.
        scores: (N,) float32 in [0, 1].
        classes: (N,) int64, contiguous, 0 .. K - 1.
        masks: N arrays (h, w) bool.
        origins: (N, 2) int64, (x, y) of each mask's first pixel in the image; a mask lies wholly inside the image.
    """

    image_size: tuple[int, int]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: Ints
    masks: list[Bools] = field(repr=False)
    origins: Ints

    def __post_init__(self) -> None:
        lengths = {len(self.boxes), len(self.scores), len(self.classes), len(self.masks), len(self.origins)}
        if len(lengths) != 1:
            raise ValueError(f"boxes, scores, classes, masks and origins differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: slice | NDArray[Any]) -> CellInstances:
        """The cells that a slice, a bool (N,) or an int (M,) array picks, in that order."""
        numbers = np.arange(len(self))[index]
        return CellInstances(
            self.image_size,
            self.boxes[numbers],
            self.scores[numbers],
            self.classes[numbers],
            [self.masks[number] for number in numbers],
            self.origins[numbers],
        )

    @property
    def mask_boxes(self) -> Ints:
        """(N, 4) int64, (x0, y0, x1, y1), half open: the part of the image that each mask's array covers."""
        shapes = np.array([mask.shape[::-1] for mask in self.masks], np.int64).reshape(-1, 2)
        return np.concatenate([self.origins, self.origins + shapes], axis=1)

    @property
    def areas(self) -> Ints:
        """(N,) int64, pixels of each mask."""
        return np.array([np.count_nonzero(mask) for mask in self.masks], np.int64)

    def runs(self) -> Runs:
        """The pixels of the masks as runs in the frame of the image."""
        return Runs.from_crops(self.masks, self.origins, self.image_size)

    @property
    def stated_scores(self) -> NDArray[np.float64]:
        """(N,) float64, the scores as every file states them, in six decimals: what thresholds and ranks go by."""
        return self.scores.astype(np.float64).round(6)

    def rles(self) -> list[Rle]:
        """The masks as COCO RLEs in the frame of the image."""
        return self.runs().rles()

    def trimmed(self) -> CellInstances:
        """The same cells with masks cropped tight to their pixels; cells without a pixel are left out."""
        keep, masks, origins = [], [], []
        for number, (mask, origin) in enumerate(zip(self.masks, self.origins)):
            columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            if len(rows):
                keep.append(number)
                # copied: a view would keep alive the array that it was cut from
                masks.append(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy())
                origins.append((origin[0] + columns[0], origin[1] + rows[0]))
        return CellInstances(
            self.image_size,
            self.boxes[keep],
            self.scores[keep],
            self.classes[keep],
            masks,
            np.array(origins, np.int64).reshape(-1, 2),
        )

    def moved(self, x: int, y: int, image_size: tuple[int, int]) -> CellInstances:
        """The same cells in a larger image, in which this one's first pixel lies at (x, y)."""
        return CellInstances(
            image_size,
            self.boxes + np.array([x, y, x, y], np.float32),
            self.scores,
            self.classes,
            self.masks,
            self.origins + np.array([x, y]),
        )

    def with_scores(self, scores: NDArray[np.floating[Any]]) -> CellInstances:
        """The same cells with other scores, (N,)."""
        return replace(self, scores=scores.astype(np.float32))

    @classmethod
    def empty(cls, image_size: tuple[int, int]) -> CellInstances:
        """No cell."""
        return cls(
            image_size,
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
            [],
            np.zeros((0, 2), np.int64),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[CellInstances]) -> CellInstances:
        """All cells of several sets of one image, in order.

        Raises:
            ValueError: no part is given, or the parts are of images of different sizes.
        """
        sizes = {part.image_size for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"cannot join the cells of images of sizes {sorted(sizes)}")
        return cls(
            sizes.pop(),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.classes for part in parts]),
            [mask for part in parts for mask in part.masks],
            np.concatenate([part.origins for part in parts]),
        )

    @classmethod
    def from_runs(
        cls,
        runs: Runs,
        classes: Sequence[int] | Ints,
        scores: Sequence[float] | NDArray[np.floating[Any]] | None = None,
    ) -> CellInstances:
        """Cells from their runs, with tight boxes; scores are 1 where none are given.

        Raises:
            ValueError: a cell has no pixel.
        """
        if not runs.areas.all():
            raise ValueError(f"cell {int(np.argmin(runs.areas))}, counted from 0, has no pixel")
        return cls(
            runs.size,
            runs.boxes.astype(np.float32),
            np.ones(len(runs), np.float32) if scores is None else np.asarray(scores, np.float32),
            np.asarray(classes, np.int64),
            runs.crops(),
            runs.boxes[:, :2],
        )

    @classmethod
    def from_rles(
        cls,
        rles: Sequence[Rle],
        classes: Sequence[int] | Ints,
        image_size: tuple[int, int],
        scores: Sequence[float] | NDArray[np.floating[Any]] | None = None,
    ) -> CellInstances:
        """Cells from COCO RLEs in the frame of the image; otherwise as :meth:`from_runs`.

        Raises:
            ValueError: an RLE is uncompressed, malformed, of another image size, or has no pixel.
        """
        return cls.from_runs(decode_runs(rles, image_size), classes, scores)

    @classmethod
    def from_annotations(cls, annotations: Iterable[Mapping[str, Any]], image_size: tuple[int, int]) -> CellInstances:
        """The cells among COCO annotations of this project's form (compressed RLE, category ids from 1), no crowds.

        Raises:
            ValueError: see :meth:`from_rles`.
        """
        cells = [annotation for annotation in annotations if not annotation["iscrowd"]]
        classes = [cell["category_id"] - 1 for cell in cells]
        return cls.from_rles([cell["segmentation"] for cell in cells], classes, image_size)
