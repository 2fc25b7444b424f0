"""Exact percentiles of more values than fit into memory: counted in passes over blocks, never sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGIT = 16
"""Bits that one pass determines: a 16-bit image takes one pass, 32-bit floats take two."""

Blocks = Callable[[], Iterable[NDArray[Any]]]
"""Each call gives an image's values anew, block by block; all blocks have one real type in native byte order."""


def percentiles(blocks: Blocks, count: int, shares: Sequence[float]) -> list[float]:
    """The percentiles of all blocks' values, interpolated between neighbours as ``numpy.percentile`` does.

    The smallest and the largest value are the percentiles 0 and 100.

    Args:
        blocks: the values; none is NaN.
        count: how many there are, at least one.
        shares: in [0, 100].
    """
    positions = [(count - 1) * (share / 100) for share in shares]
    ranks = sorted({rank for position in positions for rank in (int(position), min(int(position) + 1, count - 1))})
    values = dict(zip(ranks, _order_statistics(blocks, ranks)))
    results = []
    for position in positions:
        below = int(position)
        low, high = values[below], values[min(below + 1, count - 1)]
        part = position - below
        # from the nearer neighbour, as numpy does: exact at both ends
        results.append(low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part))
    return results


def _order_statistics(blocks: Blocks, ranks: Sequence[int]) -> list[float]:
    """The values at the places ``ranks`` (from 0) in the sorted sequence of all values.

    Radix selection: each pass counts the values by their next digit, among those that share the digits found so far.
    """
    dtype: np.dtype[Any] = next(iter(blocks())).dtype
    bits = dtype.itemsize * 8
    digit = min(DIGIT, bits)
    found = [(0, rank) for rank in ranks]  # the leading digits, and the rank among the values that begin with them
    for shift in range(bits - digit, -1, -digit):
        counts = {prefix: np.zeros(2**digit, np.int64) for prefix, _ in found}
        for block in blocks():
            keys = _sortable(block)
            for prefix, count in counts.items():
                alike = keys if shift == bits - digit else keys[(keys >> (shift + digit)) == prefix]
                count += np.bincount(((alike >> shift) & (2**digit - 1)).astype(np.intp), minlength=2**digit)
        sums = {prefix: np.cumsum(count) for prefix, count in counts.items()}
        for number, (prefix, rank) in enumerate(found):
            next_digit = int(np.searchsorted(sums[prefix], rank, side="right"))
            before = int(sums[prefix][next_digit - 1]) if next_digit else 0
            found[number] = ((prefix << digit) | next_digit, rank - before)
    return [_value(key, dtype) for key, _ in found]


def _sortable(values: NDArray[Any]) -> NDArray[Any]:
    """An unsigned integer of the same width for each value; the integers sort as the values do."""
    flat = np.ravel(values)
    kind = np.dtype(f"u{flat.dtype.itemsize}")
    if flat.dtype.kind == "u":
        return flat
    sign = kind.type(1 << (8 * kind.itemsize - 1))
    keys = flat.view(kind)
    if flat.dtype.kind == "i":
        return np.asarray(keys ^ sign)
    # IEEE 754: the bits of positive floats sort as the floats do, those of negative floats in reverse.
    return np.asarray(keys ^ np.where(keys & sign, kind.type(np.iinfo(kind).max), sign))


def _value(key: int, dtype: np.dtype[Any]) -> float:
    """The value for which :func:`_sortable` gives ``key``."""
    bits = 8 * dtype.itemsize
    sign = 1 << (bits - 1)
    if dtype.kind == "i":
        key ^= sign
    elif dtype.kind == "f":
        key ^= sign if key & sign else (1 << bits) - 1
    return float(np.array([key], f"u{dtype.itemsize}").view(dtype)[0])
