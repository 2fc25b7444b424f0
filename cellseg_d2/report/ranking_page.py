"""The page of a ranking: the images to label next, with the cells that the model is unsure of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellseg_d2.export.contrast import stretched
from cellseg_d2.images.channels import Channels, Rule
from cellseg_d2.images.listing import InputImage
from cellseg_d2.inference.ranking import Expectation
from cellseg_d2.report.gallery import outline_path
from cellseg_d2.report.page import picture_uri, write_page

LARGEST_SIDE = 640
"""The larger side of a picture in its pixels."""

LISTED = 1000
"""Images in the page's table."""

COLUMNS = ("rank", "image", "gain", "cells", "views", "thresholds")


@dataclass(frozen=True)
class Ranked:
    """An image and what the model says of it."""

    image: InputImage
    expectation: Expectation


def best_first(images: Sequence[Ranked]) -> list[Ranked]:
    """By expected gain; of equal gains in their order."""
    return sorted(images, key=lambda ranked: -ranked.expectation.gain)


def rows_of(images: Sequence[Ranked]) -> list[tuple[int, str, float, int, float, int]]:
    """Rows of :data:`COLUMNS` for images in their order."""
    told = [(ranked.image.file_name, ranked.expectation) for ranked in images]
    return [
        (rank, name, round(one.gain, 2), one.cells, round(one.views, 2), one.thresholds)
        for rank, (name, one) in enumerate(told, start=1)
    ]


@dataclass(frozen=True)
class Picture:
    """An image on the page.

    Attributes:
        title, text: its rank and name, and its numbers.
        width, height: in pixels of the page.
        uri: the pixels as a ``data:`` address.
        sure, doubted: path data of the outlines.
    """

    title: str
    text: str
    width: float
    height: float
    uri: str
    sure: list[str]
    doubted: list[str]


def write_ranking_page(
    output: Path, images: Sequence[Ranked], about: str, rule: Rule, channels: Channels, pictures: int
) -> None:
    """Writes the page.

    Args:
        output: the HTML file.
        images: best first.
        about: what was ranked by what, one sentence.
        rule: how the images are read.
        channels: what the rule gives, and which of it the pictures show.
        pictures: how many of the first to show.

    Raises:
        CellSegError: an image cannot be read, or the file cannot be written.
    """
    rows = rows_of(images)
    write_page(
        output,
        "ranking.html.j2",
        title="Which image to label next",
        about=about,
        pictures=[_draw(ranked, rank, rule, channels) for rank, ranked in enumerate(images[:pictures], start=1)],
        columns=COLUMNS,
        rows=[[str(value) for value in row] for row in rows[:LISTED]],
        count=len(rows),
    )


def _draw(ranked: Ranked, rank: int, rule: Rule, channels: Channels) -> Picture:
    pixels, one = channels.picture(ranked.image.read(rule)), ranked.expectation
    height, width = pixels.shape[:2]
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    drawn = one.shown.instances()
    paths = np.array(
        [outline_path(mask, origin, scale) for mask, origin in zip(drawn.masks, drawn.origins)], dtype=object
    )
    return Picture(
        title=f"{rank}. {ranked.image.file_name}",
        text=f"gain {one.gain:.2f}: {one.cells} cells, {one.views:.1f} by views, {one.thresholds} by thresholds",
        width=width * scale,
        height=height * scale,
        uri=picture_uri(stretched(pixels), LARGEST_SIDE),
        sure=paths[~one.doubted].tolist(),
        doubted=paths[one.doubted].tolist(),
    )
