"""Label map <-> COCO run-length encoding in one pass over the pixels.

The usual way, one comparison and one ``pycocotools.mask.encode`` of the full frame a cell, costs cells x pixels. Here
the runs of all cells are found at once in column-major order (COCO's), sorted by cell, and only the short lists of
counts go through pycocotools, which owns the text form of an RLE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_util

Rle = dict[str, Any]
"""COCO's compressed RLE: ``{"size": [height, width], "counts": str}``."""


@dataclass(frozen=True)
class Runs:
    """Runs of pixels in column-major order, sorted by ``index`` and then by ``starts``.

    Attributes:
        index: (R,) int64, which cell a run belongs to, 0 .. N - 1.
        starts, stops: (R,) int64, half open, ``x * height + y`` in the frame of ``size``.
        size: (height, width).
    """

    index: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    size: tuple[int, int]

    def areas(self, count: int) -> NDArray[np.int64]:
        """(count,) pixels of each cell."""
        return np.bincount(self.index, weights=self.stops - self.starts, minlength=count).astype(np.int64)

    def bboxes(self, count: int) -> NDArray[np.int64]:
        """(count, 4) tight boxes (x0, y0, x1, y1), half open; zeros for a cell without a pixel."""
        height = self.size[0]
        x0, y0 = np.divmod(self.starts, height)
        x1, y1 = np.divmod(self.stops - 1, height)
        spans_columns = x0 != x1
        y0 = np.where(spans_columns, 0, y0)
        y1 = np.where(spans_columns, height - 1, y1)
        low = np.full((count, 2), np.iinfo(np.int64).max)
        high = np.full((count, 2), -1)
        np.minimum.at(low, self.index, np.stack([x0, y0], axis=1))
        np.maximum.at(high, self.index, np.stack([x1, y1], axis=1))
        return np.where(high.max(axis=1, keepdims=True) < 0, 0, np.concatenate([low, high + 1], axis=1))

    def rles(self, count: int) -> list[Rle]:
        """The ``count`` cells as COCO RLEs in the frame of ``size``, as ``pycocotools.mask.encode`` writes them."""
        if count == 0:
            return []
        height, width = self.size
        bounds = np.searchsorted(self.index, np.arange(count + 1))
        edges = np.stack([self.starts, self.stops], axis=1).ravel()
        uncompressed = []
        for first, last in pairwise(bounds.tolist()):
            own = edges[2 * first : 2 * last]
            counts = np.diff(own, prepend=0, append=height * width)
            uncompressed.append({"size": [height, width], "counts": counts if counts[-1] else counts[:-1]})
        compressed = mask_util.frPyObjects(uncompressed, height, width)
        return [{"size": [height, width], "counts": rle["counts"].decode("ascii")} for rle in compressed]


def _runs_of_values(
    values: NDArray[np.integer[Any]], size: tuple[int, int], positions: NDArray[np.int64] | None = None
) -> Runs:
    """Runs of equal values but 0, and of consecutive ``positions`` where those are given; ``index`` is the value."""
    if values.size == 0:
        empty = np.zeros(0, np.int64)
        return Runs(empty, empty, empty, size)
    breaks = values[1:] != values[:-1]
    if positions is not None:
        breaks |= positions[1:] != positions[:-1] + 1
    first = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    length = np.diff(first, append=values.size)
    index = values[first].astype(np.int64)
    foreground = index != 0
    first, length, index = first[foreground], length[foreground], index[foreground]
    starts = first if positions is None else positions[first]
    order = np.argsort(index, kind="stable")
    return Runs(index[order], starts[order], (starts + length)[order], size)


@dataclass(frozen=True)
class EncodedLabels:
    """The cells of a label map.

    Attributes:
        ids: (N,) int64, the values in the label map, ascending.
        boxes: (N, 4) int64, (x0, y0, x1, y1), half open, tight.
        areas: (N,) int64, pixels.
        rles: N COCO RLEs in the label map's frame.
    """

    ids: NDArray[np.int64]
    boxes: NDArray[np.int64]
    areas: NDArray[np.int64]
    rles: list[Rle]

    def __len__(self) -> int:
        return len(self.ids)


def encode_label_map(label_map: NDArray[np.integer[Any]]) -> EncodedLabels:
    """Encodes every cell of a label map in one pass over its pixels.

    Args:
        label_map: (H, W), any integer type, 0 is background and each other value one cell.

    >>> encoded = encode_label_map(np.array([[0, 7], [7, 7]]))
    >>> encoded.ids.tolist(), encoded.areas.tolist(), encoded.boxes.tolist()
    ([7], [3], [[0, 0, 2, 2]])
    """
    height, width = label_map.shape
    runs = _runs_of_values(label_map.T.reshape(-1), (height, width))
    ids, index = np.unique(runs.index, return_inverse=True)
    runs = Runs(index.astype(np.int64), runs.starts, runs.stops, runs.size)
    count = len(ids)
    return EncodedLabels(ids, runs.bboxes(count), runs.areas(count), runs.rles(count))


def encode_crops(masks: Sequence[NDArray[np.bool_]], origins: NDArray[np.int64], size: tuple[int, int]) -> list[Rle]:
    """Encodes masks that are cropped to their boxes, in the frame of the full image.

    Args:
        masks: N arrays (h, w), bool.
        origins: (N, 2) int, (x, y) of each crop's first pixel in the full image; a crop lies wholly inside it.
        size: (height, width) of the full image.
    """
    flats, owners = [], []
    for number, (mask, (x, y)) in enumerate(zip(masks, origins)):
        columns, rows = np.nonzero(mask.T)
        flats.append((columns + x) * size[0] + rows + y)
        owners.append(np.full(len(rows), number + 1))
    if not flats:
        return []
    runs = _runs_of_values(np.concatenate(owners), size, np.concatenate(flats).astype(np.int64))
    return Runs(runs.index - 1, runs.starts, runs.stops, size).rles(len(masks))


def decode_runs(rles: Sequence[Rle], size: tuple[int, int]) -> Runs:
    """The runs of N COCO RLEs at once: the text form of all of them is parsed as one array.

    The text form is COCO's (``rleFrString`` in the COCO API's maskApi.c): six bits a character from ``'0'``, low five
    bits first, the sixth says that more follow; from the fourth count on, each is a difference to the one two before.

    Raises:
        ValueError: an RLE is for an image of another size, is uncompressed or malformed, or does not fill the image.
    """
    texts = []
    for rle in rles:
        counts = rle["counts"]
        if tuple(rle["size"]) != tuple(size) or not isinstance(counts, (str, bytes)):
            raise ValueError(f"expected a compressed RLE of size {list(size)}, not {str(rle)[:80]}")
        texts.append(counts.encode("ascii") if isinstance(counts, str) else counts)
    counts, owner, position = _parse_counts(b"".join(texts), np.array([len(text) for text in texts], np.int64))
    stops = np.cumsum(counts)
    total = size[0] * size[1]
    last = np.flatnonzero(np.diff(owner, append=len(texts)))
    if len(last) != len(texts) or not np.array_equal(stops[last], total * np.arange(1, len(texts) + 1)):
        raise ValueError(f"an RLE does not fill its image of size {list(size)}")
    if (counts < 0).any():
        raise ValueError("an RLE is malformed: it has a run of negative length")
    foreground = (position % 2 == 1) & (counts > 0)
    stops = (stops - owner * total)[foreground]
    return Runs(owner[foreground], stops - counts[foreground], stops, size)


def _parse_counts(
    text: bytes, lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Counts of all RLEs, with each one's owner and its position in the owner's list."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    ends = (codes & 0x20) == 0
    first = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])
    shift = 5 * (np.arange(codes.size) - np.repeat(first, np.diff(first, append=codes.size)))
    values = np.add.reduceat((codes & 0x1F) << shift, first)
    last = np.append(first[1:], codes.size) - 1
    values -= np.where(codes[last] & 0x10, np.int64(1) << (shift[last] + 5), 0)

    owner = np.repeat(np.arange(len(lengths)), lengths)[first]
    owner_first = np.searchsorted(owner, owner)
    position = np.arange(len(owner)) - owner_first
    # A count is the running sum of every second difference; the very first count starts no chain.
    chain = np.where(position == 0, 0, 1 + position % 2) + 3 * owner
    order = np.argsort(chain, kind="stable")
    sums = np.cumsum(values[order])
    chain_first = np.searchsorted(chain[order], chain[order])
    counts = np.empty_like(values)
    counts[order] = sums - (sums - values[order])[chain_first]
    return counts, owner, position


def paint(rles: Sequence[Rle], size: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Paints N RLEs as label maps: cell i has the value i + 1, in one layer wherever cells do not overlap.

    Returns:
        layers: (L, H, W) int32, L >= 1. A cell that overlaps an earlier one lies in a later layer, so no pixel is lost.
        layer_of: (N,) int64, the layer of each cell.

    >>> layers, layer_of = paint(encode_label_map(np.array([[0, 7], [5, 7]])).rles, (2, 2))
    >>> layers.tolist(), layer_of.tolist()
    ([[[0, 2], [1, 2]]], [0, 0])
    """
    height, width = size
    runs = decode_runs(rles, size)
    count = len(rles)
    lengths = runs.stops - runs.starts
    pixels = np.repeat(runs.starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    owners = np.repeat(runs.index, lengths)
    areas = np.bincount(owners, minlength=count)
    layer_of = np.zeros(count, np.int64)
    layers: list[NDArray[np.int32]] = []
    while not layers or owners.size:
        flat = np.zeros(height * width, np.int32)
        flat[pixels[::-1]] = owners[::-1] + 1  # reversed, so that of two cells the earlier one stays whole
        whole = np.bincount(flat, minlength=count + 1)[1:] == areas
        kept = whole[owners]
        flat[(flat > 0) & ~np.append(True, whole)[flat]] = 0
        layers.append(flat.reshape(width, height).T)
        owners, pixels = owners[~kept], pixels[~kept]
        layer_of[np.unique(owners)] += 1
        areas = np.bincount(owners, minlength=count)
        areas[areas == 0] = -1
    return np.ascontiguousarray(np.stack(layers)), layer_of
