"""The page of an audit: what the model contradicts by kind and image, and the worst places with both outlines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.selection import Selection
from cellseg_d2.cells.tiling import Window
from cellseg_d2.evaluation.audit import Doubt
from cellseg_d2.evaluation.contradictions import KINDS
from cellseg_d2.evaluation.overlap_table import Cells
from cellseg_d2.export.audit_files import row_of
from cellseg_d2.export.contrast import stretched
from cellseg_d2.images.channels import Channels
from cellseg_d2.images.resize import resized
from cellseg_d2.report.gallery import outline_path
from cellseg_d2.report.page import picture_uri, write_page

PANEL = 240
"""The larger side of a shown place in pixels of the page."""

MARGIN = 12
"""Pixels of the image around a place, at least; half of its larger side if that is more."""

LISTED_IMAGES = 20

MEANING = {
    "missing": "the model sees a cell where none is labelled",
    "spurious": "a cell is labelled where the model sees nothing",
    "wrong class": "the model sees the cell as another class",
    "merged": "the model sees several cells in one labelled cell",
    "split": "the model sees one cell in several labelled cells",
}


@dataclass(frozen=True)
class Drawn:
    """Cells of one side at one place.

    Attributes:
        doubted: path data of what is doubted, in pixels of the shown place.
        others: the same of all other cells there.
    """

    doubted: list[str]
    others: list[str]


@dataclass(frozen=True)
class Place:
    """A doubt as the page shows it.

    Attributes:
        title: rank, kind, score and classes.
        where: image and pixels.
        width, height: the size of each of the two panels, in pixels of the page.
        uri: the pixels as a ``data:`` address.
        labels, model: the outlines.
    """

    title: str
    where: str
    width: float
    height: float
    uri: str
    labels: Drawn
    model: Drawn


def write_audit_page(
    output: Path,
    doubts: Sequence[Doubt],
    class_names: Sequence[str],
    about: str,
    pictures: int,
    shown_channels: Sequence[str] = (),
) -> None:
    """Writes the page.

    Args:
        output: the HTML file.
        doubts: worst first.
        class_names: the names of class 0, 1, ...
        about: what was compared with what, one sentence.
        pictures: how many of the worst to show.
        shown_channels: up to three of the dataset's channels to show; empty for the first three, or for RGB.

    Raises:
        CellSegError: an image cannot be read, or the file cannot be written.
    """
    kinds = Counter(doubt.found.kind for doubt in doubts)
    shown = draw_places(doubts[:pictures], class_names, shown_channels)
    by_image = Counter(doubt.audited.image.name for doubt in doubts).most_common(LISTED_IMAGES)
    write_page(
        output,
        "audit.html.j2",
        title="Doubtful labels",
        about=about,
        count=len(doubts),
        kinds=[[kind, kinds[kind], MEANING[kind]] for kind in KINDS],
        images=[[name, str(number)] for name, number in by_image],
        places=shown,
    )


def draw_places(doubts: Sequence[Doubt], class_names: Sequence[str], shown_channels: Sequence[str] = ()) -> list[Place]:
    """Pictures of doubts in their order; each image is read once."""
    by_name: dict[str, list[Doubt]] = defaultdict(list)
    for doubt in doubts:
        by_name[doubt.audited.image.name].append(doubt)
    drawn: dict[int, Place] = {}
    for members in by_name.values():
        image = members[0].audited.image
        names = tuple(shown_channels) or image.channels[:3]
        pixels = stretched(Channels(names).picture(image.read(names)))
        drawn |= {doubt.rank: _draw(doubt, pixels, class_names) for doubt in members}
    return [drawn[doubt.rank] for doubt in doubts]


def _draw(doubt: Doubt, pixels: NDArray[np.uint8], class_names: Sequence[str]) -> Place:
    found, audited = doubt.found, doubt.audited
    x0, y0, x1, y1 = window = _around(doubt.box, audited.image.size)
    scale = PANEL / max(x1 - x0, y1 - y0)
    height, width = max(round(scale * (y1 - y0)), 1), max(round(scale * (x1 - x0)), 1)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    row = row_of(doubt, class_names)
    classes = ", ".join(f"{key} {row[key]}" for key in ("labelled", "predicted") if row[key])
    # what the model is sure of, so that its panel is not full of guesses
    sure = audited.predictions.selected(Selection(class_names, min(0.5, found.score)))
    rest = sure.pick(np.flatnonzero(~np.isin(sure.runs.boxes, doubt.proposal.runs.boxes).all(axis=1)))
    labels = _inside(audited.truth, window)
    return Place(
        title=f"{doubt.rank}. {found.kind}, {found.score:.2f}",
        where=f"{audited.image.name} at x {row['x']}, y {row['y']}: {classes}",
        width=width,
        height=height,
        uri=picture_uri(resized(pixels[y0:y1, x0:x1], (height, width), way)),
        labels=Drawn(
            _paths(audited.truth, found.cells, window, scale),
            _paths(audited.truth, [number for number in labels if number not in found.cells], window, scale),
        ),
        model=Drawn(
            _paths(audited.predictions, found.predictions, window, scale),
            _paths(rest, _inside(rest, window), window, scale),
        ),
    )


def _around(box: Window, size: tuple[int, int]) -> Window:
    """A place with its surroundings, inside the image."""
    x0, y0, x1, y1 = box
    margin = max(MARGIN, max(x1 - x0, y1 - y0) // 2)
    return max(x0 - margin, 0), max(y0 - margin, 0), min(x1 + margin, size[1]), min(y1 + margin, size[0])


def _inside(cells: Cells, window: Window) -> list[int]:
    """Numbers of the cells whose boxes reach into a window."""
    x0, y0, x1, y1 = window
    boxes = cells.runs.boxes
    meets = (boxes[:, 0] < x1) & (boxes[:, 1] < y1) & (boxes[:, 2] > x0) & (boxes[:, 3] > y0)
    return [int(number) for number in np.flatnonzero(meets & ~cells.crowd)]


def _paths(cells: Cells, numbers: Sequence[int], window: Window, scale: float) -> list[str]:
    drawn = cells.pick(np.array(numbers, np.int64)).instances()
    return [
        outline_path(mask, origin - np.array(window[:2]), scale) for mask, origin in zip(drawn.masks, drawn.origins)
    ]
