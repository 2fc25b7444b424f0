"""Label map <-> COCO run-length encoding in one pass over the pixels.

The usual way, one comparison and one ``pycocotools.mask.encode`` of the full frame a cell, costs cells x pixels. Here
the runs of all cells are found at once in column-major order (COCO's) and sorted by cell, and the text form of all RLEs
is written, and read, as one array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.tiling import Window

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

    def pixels(self) -> NDArray[np.int64]:
        """(P,) every pixel of every cell, run by run, as ``x * height + y``."""
        lengths = self.stops - self.starts
        before = np.cumsum(lengths) - lengths
        places: NDArray[np.int64] = np.repeat(self.starts - before, lengths)
        places += np.arange(len(places))
        return places

    def bboxes(self, count: int) -> NDArray[np.int64]:
        """(count, 4) tight boxes (x0, y0, x1, y1), half open; zeros for a cell without a pixel."""
        height = self.size[0]
        x0, y0 = np.divmod(self.starts, height)
        x1, y1 = np.divmod(self.stops - 1, height)
        spans_columns = x0 != x1
        y0 = np.where(spans_columns, 0, y0)
        y1 = np.where(spans_columns, height - 1, y1)
        boxes = np.zeros((count, 4), np.int64)
        if self.index.size:
            first = np.flatnonzero(np.diff(self.index, prepend=-1))
            for place, values in enumerate((x0, y0)):
                boxes[self.index[first], place] = np.minimum.reduceat(values, first)
            for place, values in enumerate((x1, y1), start=2):
                boxes[self.index[first], place] = np.maximum.reduceat(values, first) + 1
        return boxes

    def joined(self) -> Runs:
        """The same pixels in the fewest runs: those of one cell that follow on each other become one."""
        goes_on = (self.starts[1:] == self.stops[:-1]) & (self.index[1:] == self.index[:-1])
        edge = np.ones(min(self.index.size, 1), bool)
        first, last = np.concatenate([edge, ~goes_on]), np.concatenate([~goes_on, edge])
        return Runs(self.index[first], self.starts[first], self.stops[last], self.size)

    def crop(self, cells: NDArray[np.int64], window: Window) -> Runs:
        """What a window shows of some cells, in its frame; ``index`` is the place in ``cells``.

        Args:
            cells: (M,) int64, ascending; runs of other cells are not looked at.
            window: (x0, y0, x1, y1), half open. No run may reach from one column to the next, see :func:`column_runs`.
        """
        x0, y0, x1, y1 = window
        first, last = np.searchsorted(self.index, cells, "left"), np.searchsorted(self.index, cells, "right")
        counts = last - first
        own = np.repeat(last - np.cumsum(counts), counts) + np.arange(counts.sum())
        column, row = np.divmod(self.starts[own], self.size[0])
        top = np.maximum(row, y0)
        foot = np.minimum(row + (self.stops - self.starts)[own], y1)
        shown = (column >= x0) & (column < x1) & (top < foot)
        index = np.repeat(np.arange(len(cells)), counts)[shown]
        place = ((column - x0) * (y1 - y0) - y0)[shown]
        return Runs(index, place + top[shown], place + foot[shown], (y1 - y0, x1 - x0))

    def rles(self, count: int) -> list[Rle]:
        """The ``count`` cells as COCO RLEs in the frame of ``size``, as ``pycocotools.mask.encode`` writes them."""
        if count == 0:
            return []
        bounds = np.searchsorted(self.index, np.arange(count + 1))
        # Each cell's edges lie between the frame's first place and its last; the differences are its counts.
        last = 2 * (np.arange(1, count + 1) + bounds[1:]) - 1
        edges = np.zeros(2 * (len(self.index) + count), np.int64)
        place = 2 * (np.arange(len(self.index)) + self.index) + 1
        edges[place], edges[place + 1], edges[last] = self.starts, self.stops, self.size[0] * self.size[1]
        counts = np.diff(edges, append=0)
        kept = np.ones(len(counts), bool)
        kept[last] = False  # from one cell's end to the next one's beginning
        kept[last[counts[last - 1] == 0] - 1] = False  # no run of background of length 0 at the end
        owner = np.repeat(np.arange(count), np.diff(last, prepend=-1))[kept]
        return [{"size": list(self.size), "counts": text} for text in _format_counts(counts[kept], owner, count)]


def _format_counts(counts: NDArray[np.int64], owner: NDArray[np.int64], count: int) -> list[str]:
    """The text form of ``count`` RLEs, see :func:`decode_runs`, from their counts, which are sorted by ``owner``."""
    position = np.arange(len(counts)) - np.searchsorted(owner, owner)
    values = counts.copy()
    later = np.flatnonzero(position > 2)
    values[later] -= counts[later - 2]
    largest = int(np.abs(values).max(initial=0))
    lengths = np.ones(len(values), np.int64)
    for bits in range(4, largest.bit_length() + 1, 5):  # n characters hold 5 n bits, the highest of which is the sign
        lengths += (values >= 1 << bits) | (values < -1 << bits)
    ends = np.cumsum(lengths)
    place = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
    codes = (np.repeat(values, lengths) >> 5 * place) & 0x1F
    codes[place < np.repeat(lengths, lengths) - 1] |= 0x20
    text = (codes + 48).astype(np.uint8).tobytes().decode("ascii")
    bounds = np.append(0, ends)[np.searchsorted(owner, np.arange(count + 1))]
    return [text[first:last] for first, last in pairwise(bounds.tolist())]


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

    @classmethod
    def of(cls, ids: NDArray[np.int64], runs: Runs) -> EncodedLabels:
        """The cells ``ids`` from their runs; ``runs.index`` is the place in ``ids``."""
        count, runs = len(ids), runs.joined()
        return cls(ids, runs.bboxes(count), runs.areas(count), runs.rles(count))

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
    return EncodedLabels.of(*column_runs(label_map))


def column_runs(label_map: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], Runs]:
    """The (N,) values of a (H, W) label map, ascending and without 0, and these cells' runs, each within one column.

    The one pass over the pixels compares each row with the next, in the order in which they lie in memory (in
    column-major order it would take three times as long); all else is work on the few places where they differ.
    """
    height, width = label_map.shape
    changes = np.flatnonzero(label_map[1:] != label_map[:-1])
    row = changes // max(width, 1)
    column = changes - row * width
    above, below = label_map[row, column], label_map[row + 1, column]
    head, foot = np.flatnonzero(label_map[:1]), np.flatnonzero(label_map[-1:])
    place = column * height + row + 1
    starts = np.concatenate([head * height, place[below != 0]])
    stops = np.concatenate([place[above != 0], (foot + 1) * height])
    # Both are sorted by row. In column-major order each run's end comes before the next one's start: that pairs them.
    order = _argsort(np.concatenate([head, column[below != 0]]))
    stop_order = _argsort(np.concatenate([column[above != 0], foot]))
    ids, index = _compact(np.concatenate([label_map[0, head], below[below != 0]])[order])
    by_cell = _argsort(index)
    return ids, Runs(index[by_cell], starts[order][by_cell], stops[stop_order][by_cell], (height, width))


def _argsort(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The stable order of values >= 0; of values below 2 ** 16 NumPy sorts the digits, some ten times as fast."""
    fits = values.max(initial=0) < 2**16
    return np.argsort(values.astype(np.uint16) if fits else values, kind="stable")


def _compact(values: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``np.unique`` with its inverse; ids that are not much larger than their number need no sorting."""
    if values.size and 0 <= values.min() and values.max() < 4 * values.size:
        there = np.zeros(int(values.max()) + 1, bool)
        places = values.astype(np.int64)
        there[places] = True
        return np.flatnonzero(there), (np.cumsum(there) - 1)[places]
    ids, index = np.unique(values, return_inverse=True)
    return ids.astype(np.int64), index.astype(np.int64)


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
    runs = decode_runs(rles, size)
    owners = np.repeat(runs.index, runs.stops - runs.starts)
    return paint_pixels(runs.pixels(), owners, len(rles), size)


def paint_pixels(
    pixels: NDArray[np.int64], owners: NDArray[np.int64], count: int, size: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Paints ``count`` cells, given pixel by pixel, as :func:`paint` does.

    Args:
        pixels: (P,) places ``x * height + y``; none twice in one cell.
        owners: (P,) ascending, the cell 0 .. count - 1 that each belongs to.
        count: cells; one without a pixel is in no layer, and its ``layer_of`` is 0.
        size: (height, width).

    >>> layers, layer_of = paint_pixels(np.array([0, 1, 1]), np.array([0, 0, 1]), 2, (2, 1))
    >>> layers.tolist(), layer_of.tolist()
    ([[[1], [1]], [[0], [2]]], [0, 1])
    """
    height, width = size
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
