"""COCO's text form of run lengths: read for many masks at once, and each checked in time linear in its text.

The text form is that of ``rleFrString`` in the COCO API's maskApi.c: six bits a character from ``'0'``, low five bits
first, the sixth says that more follow; from the fourth count on, each is a difference to the one two before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

MOST_PIXELS = 2**40
"""Of an image: sums of what any text says then fit into 64 bits."""

LONGEST_NUMBER = 10
"""Characters of a number: five bits each hold every difference of two counts up to :data:`MOST_PIXELS`."""


@dataclass(frozen=True)
class Counts:
    """Run lengths of N masks, one mask after the other.

    Attributes:
        counts: (C,) int64, background and foreground in turn.
        owner: (C,) int64, the mask that a count belongs to, 0 .. N - 1, ascending.
        position: (C,) int64, a count's place in its mask.
        stops: (C,) int64, pixels of the mask up to the end of each count.
        faults: what is wrong with a mask, by its number; it has no counts.
    """

    counts: NDArray[np.int64]
    owner: NDArray[np.int64]
    position: NDArray[np.int64]
    stops: NDArray[np.int64]
    faults: dict[int, str]


def parse(texts: Sequence[str | bytes], sizes: Sequence[tuple[int, int]]) -> Counts:
    """The counts of N texts, each of an image of its size, (height, width); no pixel of an image is touched.

    A sound text has whole numbers, none of which is below 0, and that make up just the pixels of its image.
    """
    faults: dict[int, str] = {}
    known = np.array([height * width <= MOST_PIXELS for height, width in sizes], bool)
    for place in np.flatnonzero(~known).tolist():
        faults[place] = f"is of an image of {sizes[place][0]} x {sizes[place][1]}, which is too large"
    codes, bounds, bad = _codes([text if place not in faults else "" for place, text in enumerate(texts)])
    faults |= {place: fault for place, fault in bad.items() if place not in faults}
    totals = np.array([height * width if good else 0 for good, (height, width) in zip(known, sizes)], np.int64)

    values, begins, too_long = _numbers(codes, bounds)
    owner = np.repeat(np.arange(len(texts)), np.diff(begins))
    limits = totals[owner]
    wild = too_long | (np.abs(values) > limits)
    values[wild] = 0
    counts, position, stops = _running(values, owner, begins)
    outside = wild | (counts < 0) | (stops > limits)
    for place in np.unique(owner[outside]).tolist():
        faults.setdefault(place, f"has a count that does not fit into {_pixels(sizes[place])}")
    sums = np.zeros(len(texts), np.int64)
    filled = np.flatnonzero(np.diff(begins))
    sums[filled] = stops[begins[1:][filled] - 1]
    for place in np.flatnonzero(sums != totals).tolist():
        faults.setdefault(place, f"fills {sums[place]}, not {_pixels(sizes[place])}")
    if not faults:
        return Counts(counts, owner, position, stops, faults)
    sound = np.ones(len(texts), bool)
    sound[list(faults)] = False
    kept = sound[owner]
    return Counts(counts[kept], owner[kept], position[kept], stops[kept], faults)


def _pixels(size: tuple[int, int]) -> str:
    height, width = size
    return f"the {height * width} pixels of {height} x {width}"


def _codes(texts: Sequence[str | bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64], dict[int, str]]:
    """The six bits of all characters, where each text begins and ends in them, and what is wrong; such texts go."""
    faults: dict[int, str] = {}
    raw = [text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass") for text in texts]
    while True:
        joined = b"".join(raw)
        codes = np.frombuffer(joined, np.uint8) - np.uint8(48)  # what lies below wraps around to above
        bounds = np.array([0, *accumulate(map(len, raw))], np.int64)
        found = {}
        for place in np.flatnonzero(bounds[1:] == bounds[:-1]).tolist():
            found[place] = "is empty"
        ends = bounds[1:][bounds[1:] > bounds[:-1]] - 1
        for index in np.searchsorted(bounds, ends[codes[ends] & 0x20 > 0], "right").tolist():
            found[index - 1] = "ends in the middle of a number"
        for index in np.unique(np.searchsorted(bounds, np.flatnonzero(codes > 63), "right")).tolist():
            found[index - 1] = "has a character that no RLE has"
        new = {place: fault for place, fault in found.items() if place not in faults}
        if not new:
            return codes, bounds, faults
        faults |= new
        raw = [b"" if place in new else text for place, text in enumerate(raw)]


def _numbers(
    codes: NDArray[np.uint8], bounds: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(C,) the numbers, (N + 1,) where each text's begin, and (C,) which have too many characters; these are 0."""
    last = np.flatnonzero((codes & 0x20) == 0)
    first = np.empty_like(last)
    first[:1], first[1:] = 0, last[:-1] + 1
    lengths = last - first + 1
    values = np.zeros(len(last), np.int64)
    there = np.arange(len(last))
    for place in range(LONGEST_NUMBER):
        values[there] |= (codes[first[there] + place] & 0x1F).astype(np.int64) << 5 * place
        there = there[lengths[there] > place + 1]
    too_long = lengths > LONGEST_NUMBER
    negative = np.flatnonzero((codes[last] & 0x10 > 0) & ~too_long)
    values[negative] -= np.int64(1) << 5 * lengths[negative]
    values[too_long] = 0
    return values, np.searchsorted(last, bounds), too_long


def _running(
    values: NDArray[np.int64], owner: NDArray[np.int64], begins: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(C,) counts, each one's position in its text, and the pixels up to its end."""
    position = np.arange(len(values)) - begins[owner]
    counts = values.copy()
    odd = position % 2 == 1
    for chain in (np.flatnonzero(odd), np.flatnonzero(~odd & (position > 0))):  # the very first starts no chain
        counts[chain] = _sums(values[chain], owner[chain], np.searchsorted(chain, begins))
    return counts, position, _sums(counts, owner, begins)


def _sums(values: NDArray[np.int64], owner: NDArray[np.int64], begins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Running sums that begin anew with each owner; what overflows over many owners comes right in the difference."""
    sums = np.cumsum(values)
    before = np.append(np.int64(0), sums)[begins]
    sums -= before[owner]
    return sums
