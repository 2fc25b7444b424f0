"""The cells of one image, in numpy: what prediction gives and stitching, export and evaluation pass on."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools, Ints
from cellseg_d2.cells.rle import Rle, Runs, decode_runs
from cellseg_d2.errors import counted, size_text

RLES_AT_ONCE = 2000
"""Cells that are encoded together: some 5 kB are needed for each."""

LARGEST_SIDE = 1024
"""Pixels of a picture of cells in a notebook."""


@dataclass(frozen=True, repr=False)
class CellInstances:
    """N cells of one image; a notebook shows them as a picture.

    A mask is cropped to its cell, so memory follows the cells' area and never cells x image.

    Attributes:
        image_size: (height, width) of the image in pixels.
        boxes: (N, 4) float32, (x0, y0, x1, y1) in pixels of the image, as the model predicted them.
        scores: (N,) float32 in [0, 1].
        classes: (N,) int64, contiguous, 0 .. K - 1.
        masks: N arrays (h, w) bool.
        origins: (N, 2) int64, (x, y) of each mask's first pixel in the image; a mask lies wholly inside the image.
        class_names: the names of class 0, 1, ...; empty where they are not known.
    """

    image_size: tuple[int, int]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: Ints
    masks: list[Bools]
    origins: Ints
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.boxes), len(self.scores), len(self.classes), len(self.masks), len(self.origins)}
        if len(lengths) != 1:
            raise ValueError(f"boxes, scores, classes, masks and origins differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: slice | NDArray[Any]) -> CellInstances:
        """The cells that a slice, a bool (N,) or an int (M,) array picks, in that order."""
        numbers = np.arange(len(self))[index]
        return replace(
            self,
            boxes=self.boxes[numbers],
            scores=self.scores[numbers],
            classes=self.classes[numbers],
            masks=[self.masks[number] for number in numbers],
            origins=self.origins[numbers],
        )

    def __repr__(self) -> str:
        """Such as ``41 cells (30 tumour, 11 stroma) in an image of 512 x 640 pixels``."""
        by_class = ", ".join(f"{count} {name}" for name, count in sorted(Counter(self.names).items()))
        found = counted(len(self), "cell") + (f" ({by_class})" if by_class else "")
        return f"{found} in an image of {size_text(self.image_size)} pixels"

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

    @property
    def ranking(self) -> NDArray[np.int64]:
        """(N,) int64, numbers of the cells by falling score; of equal scores the earlier first."""
        return np.argsort(-self.stated_scores, kind="stable")

    @property
    def names(self) -> list[str]:
        """N, the name of each cell's class; ``class <number>`` where it is not known."""
        known = dict(enumerate(self.class_names))
        return [known.get(number, f"class {number}") for number in self.classes.tolist()]

    def label_image(self) -> NDArray[np.int32]:
        """(H, W) int32: each pixel's cell, counted from 1, the better of several; 0 where there is none."""
        return self._painted(1)

    def picture(self) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB: each cell in a colour on black, as a whole with a side of at most 1,024 pixels."""
        from skimage.color import label2rgb

        labels = self._painted(max(-(-max(self.image_size) // LARGEST_SIDE), 1))
        return (255 * label2rgb(labels, bg_label=0)).astype(np.uint8)  # type: ignore[no-untyped-call]

    def _repr_html_(self) -> str:
        """What notebooks show: the text and the picture."""
        uri = base64.b64encode(self._repr_png_()).decode("ascii")
        return f'<p>{html.escape(repr(self))}</p><img alt="cells" src="data:image/png;base64,{uri}">'

    def _repr_png_(self) -> bytes:
        """What notebooks show that show no HTML."""
        import cv2

        return cv2.imencode(".png", np.ascontiguousarray(self.picture()[..., ::-1]))[1].tobytes()

    def _painted(self, step: int) -> NDArray[np.int32]:
        """:meth:`label_image` of every ``step``-th row and column."""
        height, width = self.image_size
        labels = np.zeros((-(-height // step), -(-width // step)), np.int32)
        for number in self.ranking[::-1].tolist():
            x, y = self.origins[number].tolist()
            mask = self.masks[number][-y % step :: step, -x % step :: step]
            row, column = -(-y // step), -(-x // step)
            labels[row : row + mask.shape[0], column : column + mask.shape[1]][mask] = number + 1
        return labels

    def rles(self) -> list[Rle]:
        """The masks as COCO RLEs in the frame of the image."""
        parts = (self[first : first + RLES_AT_ONCE] for first in range(0, len(self), RLES_AT_ONCE))
        return [rle for part in parts for rle in part.runs().rles()]

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
        return replace(
            self,
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            classes=self.classes[keep],
            masks=masks,
            origins=np.array(origins, np.int64).reshape(-1, 2),
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
            self.class_names,
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
            parts[0].class_names,
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
