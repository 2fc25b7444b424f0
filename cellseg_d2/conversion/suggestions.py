"""Config values that follow from a dataset's numbers, and the YAML file that carries them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from cellseg_d2.cells.coco import Record
from cellseg_d2.cells.tiling import halo_pixels
from cellseg_d2.conversion.caps import DETECTIONS_KEY, FROM_DATA, caps_for

STRIDES = (4, 8, 16, 32, 64)
"""Pixels between the anchors of the FPN's levels p2 to p6."""

SMALLEST_ANCHOR = 2
"""The smallest side of a level's anchors, in strides. Anchors farther apart than half their side would miss cells
between them. At 2, a cell of the anchors' size in the worst place has an IoU of 0.39 with one, above background's 0.3.
"""

TOLERANCE = 4
"""The default of ``CELLSEG.INFERENCE.TOLERANCE``."""

UNEVEN = 2
"""Tiles are repeated only if the most frequent class is in at least this many times as many tiles as the rarest."""

MOST_REPEATS = 4
"""The most often a class may make its tiles come: with more repeats, the model learns the same few cells by heart."""


class Suggestion(NamedTuple):
    """A value for a config key, and why."""

    value: Any
    reason: str


def suggest(summary: Mapping[str, Any]) -> dict[str, Suggestion]:
    """Config keys and the values that suit a dataset, from its statistics.

    A dataset whose tiles have no cell gets no suggestions.
    """
    if not summary["tiles"]["instances"]:
        return {}
    found = _anchors(summary)
    found.update(_caps(summary))
    found.update(_windows(summary))
    found.update(_repeats(summary))
    return found


def _anchors(summary: Mapping[str, Any]) -> dict[str, Suggestion]:
    """One anchor size per level: a geometric series over usual cell sizes, none too small for its level's stride."""
    sizes = summary["cells"]["box_size"]
    low, high = max(sizes["p5"], 1.0), max(min(sizes["p95"], summary["tiles"]["tile_size"]), 1.0)
    middle = math.sqrt(low * high)
    ratio = max((high / low) ** 0.25, math.sqrt(2))  # in smaller steps the levels would compete for the same cells
    row = [middle * ratio**step for step in (-2, -1, 0, 1, 2)]
    anchors = [_rounded(max(size, SMALLEST_ANCHOR * stride)) for size, stride in zip(row, STRIDES)]
    for level, (below, size) in enumerate(pairwise(anchors), start=1):
        anchors[level] = max(size, below + 4)
    reason = f"cells measure {low:.0f} to {high:.0f} px (the middle 90 %, square root of the box area)"
    return {"MODEL.ANCHOR_GENERATOR.SIZES": Suggestion([[size] for size in anchors], reason)}


def _rounded(size: float) -> int:
    return round(size / 4) * 4


def _caps(summary: Mapping[str, Any]) -> dict[str, Suggestion]:
    """The value that lets training set the limits from its data; the reason names the limits for today's data."""
    most = summary["tiles"]["instances"]["max"]
    detections, proposals, kept, *_ = caps_for(most).values()
    reason = f"from the data: a tile has up to {most} cells, so {detections} detections, {proposals} proposals"
    return {DETECTIONS_KEY: Suggestion(FROM_DATA, f"{reason} ({kept} in training)")}


def largest_whole(tile_size: int, overlap: float) -> int:
    """The longest box side of cells that a window of prediction shows whole: below 2 x (halo - tolerance - 1).

    The rule is that of :mod:`cellseg_d2.inference.stitch`.
    """
    return max(2 * (halo_pixels(tile_size, overlap) - TOLERANCE - 1) - 1, 0)


def _windows(summary: Mapping[str, Any]) -> dict[str, Suggestion]:
    tile_size, usual = summary["tiles"]["tile_size"], summary["cells"]["longest_side"]["p99"]
    hundredths = next((share for share in range(5, 50) if largest_whole(tile_size, share / 100) >= usual), 50)
    overlap = hundredths / 100
    shown = largest_whole(tile_size, overlap)
    reason = f"99 of 100 cells are at most {usual} px long; windows show cells up to {shown} px whole"
    if shown < usual:
        reason += ", at most; take a larger TILE_SIZE"
    return {
        "CELLSEG.INFERENCE.TILE_SIZE": Suggestion(tile_size, "as the tiles of training, which the caps are counted in"),
        "CELLSEG.INFERENCE.OVERLAP": Suggestion(overlap, reason),
    }


def _repeats(summary: Mapping[str, Any]) -> dict[str, Suggestion]:
    shares = {name: cells["share"] for name, cells in summary["tiles"]["classes"].items() if cells["share"] > 0}
    by_share = sorted(shares, key=lambda name: (shares[name], name))
    rarest, commonest = by_share[0], by_share[-1]
    if shares[commonest] < UNEVEN * shares[rarest]:
        return {}
    threshold = round(repeat_threshold(shares[rarest], shares[commonest]), 3)
    times = math.sqrt(threshold / shares[rarest])
    return {
        "DATALOADER.SAMPLER_TRAIN": Suggestion(
            "RepeatFactorTrainingSampler",
            f"{_percent(shares[rarest])} of the tiles have {rarest}, {_percent(shares[commonest])} {commonest}",
        ),
        "DATALOADER.REPEAT_THRESHOLD": Suggestion(threshold, f"its tiles come {times:.1f} times as often"),
    }


def repeat_threshold(rarest: float, commonest: float, power: float = 0.5) -> float:
    """The repeat threshold for given shares of the tiles that have the rarest and the most frequent class.

    A tile comes (threshold / share of its rarest class) ** power times. The threshold is the share of the most frequent
    class, so that all classes approach it, but small enough that tiles of the rarest class come at most
    :data:`MOST_REPEATS` times. LVIS's threshold of 0.001 is for 1000 classes, and the median of the shares would
    repeat nothing where most classes are equally rare.
    """
    return min(commonest, rarest * math.pow(MOST_REPEATS, 1 / power))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1g} %"


def to_yaml(suggestions: Mapping[str, Suggestion], base: str) -> str:
    """The text of a config file with the suggested values, each below its reason, based on another config.

    Args:
        suggestions: by config key.
        base: the path of that config, as ``_BASE_`` takes it: absolute, or relative to the new file's folder.
    """
    tree: Record = {}
    for key, suggestion in suggestions.items():
        *parents, name = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = suggestion
    lines = ["VERSION: 2", f"_BASE_: {json.dumps(base, ensure_ascii=False)}", *_lines(tree, "")]
    return "\n".join(lines) + "\n"


def _lines(tree: Mapping[str, Any], indent: str) -> list[str]:
    """YAML of nested mappings; values are written as JSON, which YAML reads the same way."""
    lines = []
    for key, node in tree.items():
        if isinstance(node, Suggestion):
            lines += [
                f"{indent}# {' '.join(node.reason.split())}",
                f"{indent}{key}: {json.dumps(node.value, ensure_ascii=False)}",
            ]
        else:
            lines += [f"{indent}{key}:", *_lines(node, indent + "  ")]
    return lines
