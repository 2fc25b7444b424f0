"""Images with the outlines of their cells and predictions, for a page with layers and zoom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools, Ints
from cellseg_d2.cells.coco import Record, by_image
from cellseg_d2.cells.outlines import Ring, trace
from cellseg_d2.cells.selection import Selection
from cellseg_d2.errors import CellSegError, size_text, turned_text
from cellseg_d2.evaluation.coco_cells import EvaluatedImage, class_names, image_cells
from cellseg_d2.evaluation.coco_matching import unmatched, within_cap
from cellseg_d2.evaluation.image_scores import ImageScore
from cellseg_d2.evaluation.overlap_table import Cells
from cellseg_d2.export.contrast import stretched
from cellseg_d2.export.marks import MISSED, SPURIOUS, mark_path, place_of
from cellseg_d2.export.overlay import class_hex
from cellseg_d2.images.channels import Rule, as_picture
from cellseg_d2.images.listing import ByFileName, InputImage, list_images
from cellseg_d2.report.page import picture_uri

TOLERANCE = 0.75
"""How far a simplified outline may be from the true one, in pixels of the shown picture. The steps of a pixel outline
are up to 0.71 from a straight line."""

LEAST_ARM = 1 / 90
"""The smallest arm of a mark as a share of the picture's larger side."""


@dataclass(frozen=True)
class Outline:
    """A cell for drawing on a page.

    Attributes:
        path: SVG path data, in pixels of the shown picture, rounded to tenths.
        color: its class's colour, ``#rrggbb``.
        title: its class, score and area.
        kind: ``missed``, ``spurious``, ``crowd`` or empty.
        mark: SVG path data of the mark on a missed or spurious cell; empty on others.
    """

    path: str
    color: str
    title: str
    kind: str
    mark: str = ""


@dataclass(frozen=True)
class Picture:
    """An image of the gallery.

    Attributes:
        score: the image's name, its numbers of cells and errors, and its F1.
        width, height: the shown picture's size in its pixels, not rounded.
        uri: the picture as a ``data:`` address, which holds its pixels, brightened if dark; None where the image is not
            at hand.
        truth, predictions: the outlines.
    """

    score: ImageScore
    width: float
    height: float
    uri: str | None
    truth: list[Outline]
    predictions: list[Outline]

    @property
    def label(self) -> str:
        """The image's name and numbers."""
        score = self.score
        numbers = f"{score.cells} cells, {score.missed} missed, {score.spurious} spurious, F1 {score.f1:.0f}"
        return f"{score.name}: {numbers}"


@dataclass(frozen=True)
class ImageFiles:
    """The files of a dataset's images, found by the ids of an id file, or by their names.

    Attributes:
        source: where the files are, for messages.
        files: the files by image id, or by the name that the ground truth states.
        named: whether they are found by name.
        rule: how images that are not 8 bit are scaled, and which channels are shown.
    """

    source: Path
    files: Mapping[Any, InputImage] | ByFileName
    named: bool
    rule: Rule

    @classmethod
    def find(cls, source: Path, ids: Path | None, rule: Rule) -> ImageFiles:
        """The images of a folder, or one file; see :func:`cellseg_d2.images.listing.list_images`, also for errors."""
        images = list_images(source, ids)
        files = ByFileName(images) if ids is None else {image.id: image for image in images}
        return cls(source, files, ids is None, rule)

    def renumbered(self, numbers: Mapping[int, int]) -> ImageFiles:
        """The same files where the ground truth has other ids than the id file: ``numbers`` has its ids by theirs."""
        if isinstance(self.files, ByFileName):
            return self
        moved = {numbers[number]: image for number, image in self.files.items() if number in numbers}
        return replace(self, files={**self.files, **moved})

    def check_names(self, records: Sequence[Record]) -> None:
        """Raises CellSegError where several records state a name that is found without their folders alone."""
        if not isinstance(self.files, ByFileName):
            return
        stated = [str(record.get("file_name", "")) for record in records]
        names = Counter(PurePosixPath(name).name for name in stated if self.files.exact(name) is None)
        name, count = names.most_common(1)[0] if names else ("", 1)
        if count > 1:
            raise CellSegError(
                f"{count} images of the ground truth are called {name!r}; tell them apart with --image-ids"
            )

    def read(self, record: Record, size: tuple[int, int]) -> NDArray[np.uint8]:
        """An image, (H, W, 3) uint8 RGB.

        Args:
            record: the image's record in the ground truth.
            size: (height, width) of its masks.

        Raises:
            CellSegError: there is no such image, it cannot be read, or it is not of the masks' size.
        """
        stated = str(record.get("file_name", ""))
        file = self.files[stated] if isinstance(self.files, ByFileName) else self.files.get(record["id"])
        if file is None:
            name = PurePosixPath(stated).name
            wanted = repr(name) if self.named else f"of the id that {name!r} has"
            raise CellSegError(f"{self.source}: holds no image {wanted}, which the ground truth lists; add it")
        image = as_picture(file.read(self.rule), self.rule)
        if image.shape[:2] != size:
            turned = turned_text(image.shape, size) or "; give the images that were judged"
            raise CellSegError(f"{file.path}: is {size_text(image.shape)}, its masks are {size_text(size)}{turned}")
        return image


def draw_gallery(
    truth: Mapping[str, Any],
    results: Sequence[Record],
    ids: Iterable[Any],
    *,
    files: ImageFiles | None,
    selection: Selection,
    max_detections: int,
    max_side: int | None,
) -> Iterator[Picture]:
    """Yields pictures of some images of a dataset.

    Args:
        truth: a COCO dataset.
        results: COCO results with segmentations.
        ids: the image ids in the order of the pictures.
        files: the images; None draws only the outlines.
        selection: which predictions are drawn and matched.
        max_detections: predictions of a class beyond so many, best first, are neither drawn nor matched.
        max_side: larger pictures are made smaller, so that the larger side is this; None for never.

    Raises:
        CellSegError: an image cannot be read or is not of its masks' size; a segmentation is damaged.
    """
    records = {record["id"]: record for record in truth["images"]}
    if files is not None:
        files.check_names(truth["images"])
    cells, found = by_image(truth["annotations"]), by_image(results)
    names = class_names(truth)
    for number in ids:
        alone = {**truth, "images": [records[number]], "annotations": cells[number]}
        image = next(image_cells(alone, found[number]))
        judged = np.sort(within_cap(image.predictions, max_detections))
        image = replace(image, predictions=image.predictions.pick(judged).selected(selection))
        pixels = None if files is None else files.read(records[number], image.truth.runs.size)
        yield _draw(image, pixels, names, max_side)


def _draw(
    image: EvaluatedImage,
    pixels: NDArray[np.uint8] | None,
    names: Sequence[str],
    max_side: int | None,
) -> Picture:
    truth, predictions = image.truth, image.predictions
    height, width = truth.runs.size
    scale = min(1.0, (max_side or max(height, width)) / max(height, width))
    missed, spurious = unmatched(truth, predictions)
    truth_kinds = np.where(truth.crowd, "crowd", "").astype(object)
    truth_kinds[missed] = MISSED
    kinds = np.full(len(predictions), "", object)
    kinds[spurious] = SPURIOUS
    return Picture(
        score=ImageScore(image.name, int(np.count_nonzero(~truth.crowd)), len(missed), len(spurious)),
        width=width * scale,
        height=height * scale,
        uri=None if pixels is None else picture_uri(stretched(pixels), max_side),
        truth=_outlines(truth, truth_kinds, names, scale, scored=False),
        predictions=_outlines(predictions, kinds, names, scale, scored=True),
    )


def _outlines(
    cells: Cells, kinds: NDArray[np.object_], names: Sequence[str], scale: float, scored: bool
) -> list[Outline]:
    """The outlines of cells; those without a pixel have none."""
    areas = cells.areas
    numbers = np.flatnonzero(areas)
    drawn = cells.pick(numbers).instances()
    outlines = []
    for number, label, mask, origin in zip(numbers.tolist(), drawn.classes.tolist(), drawn.masks, drawn.origins):
        kind = str(kinds[number])
        score = f"score {cells.scores[number]:.2f}, " if scored else ""
        title = f"{names[label]}, {score}{areas[number]:,} px"
        path = _mark(kind, mask, origin, scale, cells.runs.size) if kind in (MISSED, SPURIOUS) else ""
        outlines.append(
            Outline(
                path=outline_path(mask, origin, scale),
                color=class_hex(label),
                title={"": title, "crowd": f"not judged: {title}"}.get(kind, f"{kind}: {title}"),
                kind=kind,
                mark=path,
            )
        )
    return outlines


def _mark(kind: str, mask: Bools, origin: Ints, scale: float, size: tuple[int, int]) -> str:
    """The mark of a cell, which is seen in a large picture too, since a page shows all equally large."""
    x, y, arm = place_of(mask, origin, scale)
    return mark_path(kind, x, y, max(arm, LEAST_ARM * scale * max(size)))


def outline_path(mask: Bools, origin: Ints, scale: float) -> str:
    """SVG path data of a mask's outlines, simplified by :data:`TOLERANCE`; the even-odd rule leaves its holes out.

    Args:
        mask: (h, w) bool, with a pixel.
        origin: (x, y) of its first pixel in the image.
        scale: pixels of the shown picture per pixel of the image.
    """
    return "".join(_ring_path(ring, scale) for polygon in trace(mask, origin) for ring in polygon)


def _ring_path(ring: Ring, scale: float) -> str:
    points = (ring * scale).astype(np.float32)
    simple = cv2.approxPolyDP(points[:, None], TOLERANCE, closed=True)[:, 0]
    tenths = np.rint(10 * (simple if len(simple) > 2 else points)).astype(np.int64)
    steps = np.diff(tenths, axis=0)
    steps = steps[steps.any(axis=1)]
    start, *rest = (f"{x / 10:g} {y / 10:g}" for x, y in [tenths[0].tolist(), *steps.tolist()])
    return f"M{start}l{' '.join(rest)}z"
