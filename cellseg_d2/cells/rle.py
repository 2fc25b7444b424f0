"""Label map <-> COCO run-length encoding in one pass over the pixels.

The usual way, one comparison and one ``pycocotools.mask.encode`` of the full frame per cell, costs cells x pixels. Here
the runs of all cells are found at once in column-major order (COCO's) and sorted by cell, and the text form of all RLEs
is written, and read, as one array. All steps between pixels, runs and RLEs are here, each of them once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools, Ints
from cellseg_d2.cells.rle_text import parse
from cellseg_d2.cells.tiling import Window

Rle = dict[str, Any]
"""COCO's compressed RLE: ``{"size": [height, width], "counts": str}``."""

CROPS_AT_ONCE = 500
"""Masks whose pixels become runs in one go: that takes some 40 bytes per pixel for as long as it lasts."""


@dataclass(frozen=True)
class Runs:
    """The pixels of N cells of one image as runs in column-major order; the cells may overlap.

    Runs are sorted by ``index`` and then by ``starts``.

    Attributes:
        index: (R,) int64, which cell a run belongs to, 0 .. N - 1.
        starts, stops: (R,) int64, half open, ``x * height + y`` in the frame of ``size``.
        size: (height, width).
        count: N; cells without a pixel count too.
    """

    index: Ints
    starts: Ints
    stops: Ints
    size: tuple[int, int]
    count: int

    def __len__(self) -> int:
        return self.count

    @classmethod
    def from_crops(cls, masks: Sequence[Bools], origins: Ints, size: tuple[int, int]) -> Runs:
        """The runs of N masks that are cropped to their cells; :meth:`crops` is the way back.

        Args:
            masks: N arrays (h, w), bool.
            origins: (N, 2) int, (x, y) of each mask's first pixel in the image; a mask lies wholly inside the image.
            size: (height, width) of the image.
        """
        parts = [slice(first, first + CROPS_AT_ONCE) for first in range(0, max(len(masks), 1), CROPS_AT_ONCE)]
        found = [_runs_of_crops(masks[part], origins[part], part.start, size[0]) for part in parts]
        index, starts, stops = (np.concatenate(arrays) for arrays in zip(*found))
        return cls(index, starts, stops, size, len(masks))

    @classmethod
    def concatenate(cls, parts: Sequence[Runs]) -> Runs:
        """The cells of several of one image, one after the other; of none, no cell of an image without a pixel."""
        counts = [len(part) for part in parts]
        firsts = np.cumsum([0, *counts]).tolist()
        index, starts, stops = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for part, first in zip(parts, firsts):
            index.append(part.index + first)
            starts.append(part.starts)
            stops.append(part.stops)
        size = parts[0].size if parts else (0, 0)
        return cls(np.concatenate(index), np.concatenate(starts), np.concatenate(stops), size, firsts[-1])

    @cached_property
    def areas(self) -> Ints:
        """(N,) int64, pixels of each cell."""
        return np.bincount(self.index, weights=self.stops - self.starts, minlength=self.count).astype(np.int64)

    def pixels(self) -> Ints:
        """(P,) int64, every pixel of every cell, run by run, as ``x * height + y``."""
        lengths = self.stops - self.starts
        before = np.cumsum(lengths) - lengths
        places: Ints = np.repeat(self.starts - before, lengths)
        places += np.arange(len(places))
        return places

    def owners(self) -> NDArray[np.int32]:
        """(P,) int32, the cell that each of :meth:`pixels` belongs to."""
        return np.repeat(self.index.astype(np.int32), self.stops - self.starts)

    @cached_property
    def boxes(self) -> Ints:
        """(N, 4) int64, tight boxes (x0, y0, x1, y1), half open; zeros for a cell without a pixel."""
        return boxes_of_runs(self.index, self.starts, self.stops, self.size[0], self.count)

    def depth(self) -> int:
        """The most cells that lie on one pixel."""
        edges = np.concatenate([self.stops, self.starts])  # of edges at one place, ends come first
        steps = np.repeat([-1, 1], len(self.starts))
        return int(np.cumsum(steps[np.argsort(edges, kind="stable")]).max(initial=0))

    def joined(self) -> Runs:
        """The same pixels in the fewest runs: a cell's runs that follow on each other become one."""
        goes_on = (self.starts[1:] == self.stops[:-1]) & (self.index[1:] == self.index[:-1])
        edge = np.ones(min(self.index.size, 1), bool)
        first, last = np.concatenate([edge, ~goes_on]), np.concatenate([~goes_on, edge])
        return Runs(self.index[first], self.starts[first], self.stops[last], self.size, self.count)

    def crops(self) -> list[Bools]:
        """N masks (h, w), bool, each cropped to its box of :attr:`boxes`; (0, 0) for a cell without a pixel."""
        height = self.size[0]
        bounds = np.searchsorted(self.index, np.arange(self.count + 1)).tolist()
        masks = []
        for (x0, y0, x1, y1), (first, last) in zip(self.boxes.tolist(), pairwise(bounds)):
            columns = np.zeros((x1 - x0) * height, bool)
            for run in range(first, last):
                columns[self.starts[run] - x0 * height : self.stops[run] - x0 * height] = True
            masks.append(np.ascontiguousarray(columns.reshape(x1 - x0, height)[:, y0:y1].T))
        return masks

    def pick(self, numbers: Ints) -> Runs:
        """The cells with these numbers, in this order; no number twice."""
        place = np.full(self.count, -1)
        place[numbers] = np.arange(len(numbers))
        index = place[self.index]
        order = np.argsort(index, kind="stable")[np.count_nonzero(index < 0) :]
        return Runs(index[order], self.starts[order], self.stops[order], self.size, len(numbers))

    def crop(self, window: Window) -> tuple[Runs, Ints]:
        """The M cells that a window shows, in its frame, and the (M,) number of each among the N; all if it shows all.

        Only runs of cells whose box reaches into the window are looked at.

        Args:
            window: (x0, y0, x1, y1), half open. No run may reach from one column to the next, see :func:`column_runs`.
        """
        x0, y0, x1, y1 = window
        if window == (0, 0, *self.size[::-1]) and self.areas.all():
            return self, np.arange(self.count)
        left, top, right, bottom = self.boxes.T
        near = np.flatnonzero((left < x1) & (right > x0) & (top < y1) & (bottom > y0))
        first, last = np.searchsorted(self.index, near, "left"), np.searchsorted(self.index, near, "right")
        counts = last - first
        run = np.repeat(last - np.cumsum(counts), counts) + np.arange(counts.sum())
        column, row = np.divmod(self.starts[run], self.size[0])
        upper = np.maximum(row, y0)
        lower = np.minimum(row + (self.stops - self.starts)[run], y1)
        shown = (column >= x0) & (column < x1) & (upper < lower)
        cell = self.index[run[shown]]
        begins = np.diff(cell, prepend=-1) > 0
        place = ((column - x0) * (y1 - y0) - y0)[shown]
        index, numbers = np.cumsum(begins) - 1, cell[begins]
        return Runs(index, place + upper[shown], place + lower[shown], (y1 - y0, x1 - x0), len(numbers)), numbers

    def rles(self) -> list[Rle]:
        """N COCO RLEs in the frame of ``size``, as ``pycocotools.mask.encode`` writes them."""
        if self.count == 0:
            return []
        runs = self.joined()
        bounds = np.searchsorted(runs.index, np.arange(self.count + 1))
        # Each cell's edges lie between the frame's first place and its last; the differences are its counts.
        last = 2 * (np.arange(1, self.count + 1) + bounds[1:]) - 1
        edges = np.zeros(2 * (len(runs.index) + self.count), np.int64)
        place = 2 * (np.arange(len(runs.index)) + runs.index) + 1
        edges[place], edges[place + 1], edges[last] = runs.starts, runs.stops, self.size[0] * self.size[1]
        counts = np.diff(edges, append=0)
        kept = np.ones(len(counts), bool)
        kept[last] = False  # from one cell's end to the next one's beginning
        kept[last[counts[last - 1] == 0] - 1] = False  # no run of background of length 0 at the end
        ends = np.cumsum(kept)[last]
        return [{"size": list(self.size), "counts": text} for text in _format_counts(counts[kept], ends)]


def without_gaps(*parts: Runs) -> list[Runs]:
    """Runs of one image as if it had no pixels but those that any of them covers; lengths and overlaps stay.

    What is painted of them needs memory for these pixels alone, however large the image is said to be. The size is
    then (covered pixels, 1).
    """
    starts = np.concatenate([part.starts for part in parts])
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    reach = np.maximum.accumulate(np.concatenate([part.stops for part in parts])[order])
    begins = np.ones(len(starts), bool)
    begins[1:] = starts[1:] > reach[:-1]
    first, last = starts[begins], reach[np.append(begins[1:], True)[: len(starts)]]
    lengths = last - first
    moves = first - (np.cumsum(lengths) - lengths)
    size = (int(lengths.sum()), 1)
    moved = []
    for part in parts:
        move = moves[np.searchsorted(first, part.starts, "right") - 1]
        moved.append(Runs(part.index, part.starts - move, part.stops - move, size, part.count))
    return moved


def boxes_of_runs(
    index: NDArray[np.int64],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    height: int | NDArray[np.int64],
    count: int,
) -> NDArray[np.int64]:
    """See :attr:`Runs.boxes`; where the cells are of images of several heights, ``height`` is (R,), one per run."""
    x0, y0 = np.divmod(starts, height)
    x1, y1 = np.divmod(stops - 1, height)
    spans_columns = x0 != x1
    y0 = np.where(spans_columns, 0, y0)
    y1 = np.where(spans_columns, height - 1, y1)
    boxes = np.zeros((count, 4), np.int64)
    if index.size:
        first = np.flatnonzero(np.diff(index, prepend=-1))
        for place, values in enumerate((x0, y0)):
            boxes[index[first], place] = np.minimum.reduceat(values, first)
        for place, values in enumerate((x1, y1), start=2):
            boxes[index[first], place] = np.maximum.reduceat(values, first) + 1
    return boxes


def _format_counts(counts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[str]:
    """The text of N RLEs, see :mod:`cellseg_d2.cells.rle_text`; ``ends`` is (N,), where the counts of each one end."""
    per_rle = np.diff(ends, prepend=0)
    position = np.arange(len(counts)) - np.repeat(ends - per_rle, per_rle)
    values = counts.copy()
    later = np.flatnonzero(position > 2)
    values[later] -= counts[later - 2]
    largest = int(np.abs(values).max(initial=0))
    lengths = np.ones(len(values), np.int64)
    for bits in range(4, largest.bit_length() + 1, 5):  # n characters hold 5 n bits, the highest of which is the sign
        lengths += (values >= 1 << bits) | (values < -1 << bits)
    stops = np.cumsum(lengths)
    place = np.arange(lengths.sum()) - np.repeat(stops - lengths, lengths)
    codes = (np.repeat(values, lengths) >> 5 * place) & 0x1F
    codes[place < np.repeat(lengths, lengths) - 1] |= 0x20
    text = (codes + 48).astype(np.uint8).tobytes().decode("ascii")
    bounds = np.append(0, stops[ends - 1])
    return [text[first:last] for first, last in pairwise(bounds.tolist())]


def _runs_of_crops(masks: Sequence[Bools], origins: Ints, first_number: int, height: int) -> tuple[Ints, Ints, Ints]:
    """``index``, ``starts`` and ``stops`` of some of the masks of :meth:`Runs.from_crops`, in one array operation."""
    pixels, owners = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for number, (mask, (x, y)) in enumerate(zip(masks, origins), start=first_number):
        columns, rows = np.nonzero(mask.T)
        pixels.append((columns + x) * height + rows + y)
        owners.append(np.full(len(rows), number))
    places, cell = np.concatenate(pixels), np.concatenate(owners)
    begins = np.ones(len(places), bool)
    begins[1:] = (places[1:] != places[:-1] + 1) | (cell[1:] != cell[:-1])
    first = np.flatnonzero(begins)
    return cell[first], places[first], places[first] + np.diff(first, append=len(places))


def column_runs(label_map: NDArray[np.integer[Any]]) -> tuple[Ints, Runs]:
    """The N cells of a label map and their runs, each within one column, in one pass over the pixels.

    The pass compares each row with the next, in the order in which they lie in memory (in column-major order it would
    take three times as long); all else is work on the few places where they differ.

    Args:
        label_map: (H, W), any integer type, 0 is background and each other value one cell.

    Returns:
        (N,) int64, the values in the label map, ascending, and the runs of these cells.

    >>> ids, cells = column_runs(np.array([[0, 7], [7, 7]]))
    >>> ids.tolist(), cells.areas.tolist(), cells.boxes.tolist()
    ([7], [3], [[0, 0, 2, 2]])
    """
    height, width = label_map.shape
    changes = np.flatnonzero(label_map[1:] != label_map[:-1])
    row = changes // max(width, 1)
    column = changes - row * width
    flat = label_map.reshape(-1)
    above, below = flat[changes], flat[changes + width]
    head, foot = np.flatnonzero(label_map[:1]), np.flatnonzero(label_map[-1:])
    place = column * height + row + 1
    starts = np.concatenate([head * height, place[below != 0]])
    stops = np.concatenate([place[above != 0], (foot + 1) * height])
    # Both are sorted by row. In column-major order each run's end comes before the next one's start: that pairs them.
    order = _argsort(np.concatenate([head, column[below != 0]]))
    stop_order = _argsort(np.concatenate([column[above != 0], foot]))
    ids, index = _compact(np.concatenate([label_map[0, head], below[below != 0]])[order])
    by_cell = _argsort(index)
    return ids, Runs(index[by_cell], starts[order][by_cell], stops[stop_order][by_cell], (height, width), len(ids))


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


def decode_runs(rles: Sequence[Rle], size: tuple[int, int]) -> Runs:
    """The runs of N COCO RLEs at once: the text form of all of them is parsed as one array.

    Raises:
        ValueError: an RLE is for an image of another size, is uncompressed or malformed, or does not fill the image.
    """
    texts = []
    for rle in rles:
        counts = rle["counts"]
        if tuple(rle["size"]) != tuple(size) or not isinstance(counts, (str, bytes)):
            raise ValueError(f"expected a compressed RLE of size {list(size)}, not {str(rle)[:80]}")
        texts.append(counts)
    parsed = parse(texts, [size] * len(texts))
    for place, fault in parsed.faults.items():
        raise ValueError(f"RLE {place}, counted from 0, {fault}")
    foreground = (parsed.position % 2 == 1) & (parsed.counts > 0)
    stops = parsed.stops[foreground]
    return Runs(parsed.owner[foreground], stops - parsed.counts[foreground], stops, size, len(texts))


def topmost(owners: NDArray[np.integer[Any]], pixels: Ints, size: tuple[int, int]) -> NDArray[np.int32]:
    """(H * W,) int32, column by column: the owner + 1 of each pixel, of several owners the first, and 0 elsewhere.

    Args:
        owners: (P,) what :meth:`Runs.owners` gives, or a part of it.
        pixels: (P,) what :meth:`Runs.pixels` gives, or the same part of it.
        size: (height, width).
    """
    flat = np.zeros(size[0] * size[1], np.int32)
    flat[pixels[::-1]] = owners[::-1] + 1  # of several values for one place, NumPy keeps the last
    return flat


def paint(rles: Sequence[Rle], size: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Paints N RLEs as label maps: cell i has the value i + 1, in one layer wherever cells do not overlap.

    Returns:
        layers: (L, H, W) int32, L >= 1. A cell that overlaps an earlier one lies in a later layer, so no pixel is lost.
        layer_of: (N,) int64, the layer of each cell.

    >>> layers, layer_of = paint(column_runs(np.array([[0, 7], [5, 7]]))[1].rles(), (2, 2))
    >>> layers.tolist(), layer_of.tolist()
    ([[[0, 2], [1, 2]]], [0, 0])
    """
    runs = decode_runs(rles, size)
    return paint_pixels(runs.pixels(), runs.owners(), len(rles), size)


def paint_pixels(
    pixels: Ints, owners: NDArray[np.integer[Any]], count: int, size: tuple[int, int]
) -> tuple[NDArray[np.int32], Ints]:
    """Paints ``count`` cells, given pixel by pixel, as :func:`paint` does.

    Args:
        pixels: (P,) places ``x * height + y``; none twice in one cell.
        owners: (P,) ascending, the cell 0 .. count - 1 that each pixel belongs to.
        count: how many cells; one without a pixel is in no layer, and its ``layer_of`` is 0.
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
        flat = topmost(owners, pixels, size)
        whole = np.bincount(flat, minlength=count + 1)[1:] == areas
        kept = whole[owners]
        flat[(flat > 0) & ~np.append(True, whole)[flat]] = 0
        layers.append(flat.reshape(width, height).T)
        owners, pixels = owners[~kept], pixels[~kept]
        layer_of[np.unique(owners)] += 1
        areas = np.bincount(owners, minlength=count)
        areas[areas == 0] = -1
    return np.ascontiguousarray(np.stack(layers)), layer_of
