"""QuPath's objects as GeoJSON, ``x.geojson`` of the image ``x.tif``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.annotations.geojson import GeoObject, read_objects
from cellseg_d2.annotations.pairs import all_classes, find_pairs, has_files
from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.annotations.shapes import Shape, cover, labels_of, named, paint_shapes
from cellseg_d2.cells.label_maps import ignore_regions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import read_with_header

logger = logging.getLogger(__name__)

SUFFIX = ".geojson"
CLASS_NAME = "cell"
UNCLASSIFIED = "Unclassified"
IGNORE = "Ignore*"
REGION = "Region*"
"""QuPath's names for regions to ignore, and for regions of interest."""

CELL_KINDS = ("annotation", "detection", "cell")
REGION_SIZE = 4
"""An annotation is looked at as a region if its box is so many times as large as the middle one of all."""


@dataclass(frozen=True)
class Choice:
    """What is taken of a file.

    Attributes:
        region: only objects inside annotations of this class; empty for all.
        nuclei: whether a cell's outline is that of its nucleus.
    """

    region: str = ""
    nuclei: bool = False

    def outline(self, found: GeoObject) -> list[NDArray[np.float64]]:
        """The outline of an object; none of a cell without a nucleus where nuclei are wanted."""
        return found.nucleus if self.nuclei and found.kind == "cell" else found.rings


@dataclass(frozen=True)
class Sorted:
    """A file's objects by what they are, each in the file's order.

    Attributes:
        cells: annotated or detected objects.
        ignored: annotations of the class ``Ignore*``.
        regions: annotations of the class that is asked for, in which cells lie.
        others: what is left out, by the reason.
    """

    cells: list[GeoObject]
    ignored: list[GeoObject]
    regions: list[GeoObject]
    others: dict[str, list[GeoObject]]


@dataclass(frozen=True)
class QuPathImage(LabelledImage):
    """An image with its objects.

    Attributes:
        id: the image's name.
        image: the image.
        objects: the GeoJSON file.
        class_names: the names of class 1, 2, ...
        choice: what is taken of the file.
    """

    id: str
    image: Path
    objects: Path
    class_names: tuple[str, ...]
    choice: Choice

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`; outside regions of interest all is ignored, if they are asked for."""
        image, stated = read_with_header(self.image, rule, max_pixels)
        size = (image.shape[0], image.shape[1])
        found = sort_objects(read_objects(self.objects), self.choice)
        self._report(found)
        shapes = self._shapes(found.cells, size)
        ignored = _covered(found.ignored, size)
        if self.choice.region:
            inside = _covered(found.regions, size)
            shapes = self._inside(shapes, inside)
            ignored |= ~inside
        layers = paint_shapes(self.objects, shapes, size)
        if ignored.any():
            layers.append(ignore_regions(ignored, class_count))
        return ImageLabels(image, layers, stated)

    def _shapes(self, cells: Sequence[GeoObject], size: tuple[int, int]) -> list[Shape]:
        return [
            Shape.of_rings(
                cell.name,
                self.class_names.index(cell.class_name or UNCLASSIFIED) + 1,
                self.choice.outline(cell),
                size,
                label,
            )
            for cell, label in zip(cells, labels_of([cell.number for cell in cells]))
        ]

    def _inside(self, shapes: Sequence[Shape], inside: NDArray[np.bool_]) -> list[Shape]:
        """Shapes of which half at least lies in the regions, and those that :func:`paint_shapes` will name."""
        kept = [shape for shape in shapes if not len(shape.pixels[0]) or inside[shape.pixels].mean() >= 0.5]
        if len(kept) < len(shapes):
            logger.info("%s: %d objects outside %s", self.objects, len(shapes) - len(kept), self.choice.region)
        return kept

    def _report(self, found: Sorted) -> None:
        notes = [f"{named(item.name for item in objects)} {reason}" for reason, objects in sorted(found.others.items())]
        if self.choice.region and not found.regions:
            logger.warning("%s: has no annotation of %s, so all of it is ignored", self.objects, self.choice.region)
        if notes:
            logger.warning("%s: left out: %s", self.objects, "; ".join(notes))


def sort_objects(objects: Sequence[GeoObject], choice: Choice) -> Sorted:
    """Tells cells from regions and from what is neither.

    Annotations of the class ``Region*``, and those whose box holds two other objects at least and that ``predict`` did
    not write, are no cells either.
    """
    others: dict[str, list[GeoObject]] = {}
    cells, ignored, regions = [], [], []
    for found in objects:
        if reason := _no_cell(found, choice):
            others.setdefault(reason, []).append(found)
        elif found.kind == "annotation" and found.class_name == IGNORE:
            ignored.append(found)
        elif found.kind == "annotation" and choice.region and found.class_name == choice.region:
            regions.append(found)
        elif found.kind == "annotation" and found.class_name == REGION:
            others.setdefault(f"of the class {REGION}", []).append(found)
        else:
            cells.append(found)
    if around := _around_others(cells, choice):
        others["around others, taken for regions, not for cells"] = around
    taken = {id(found) for found in around}
    return Sorted([cell for cell in cells if id(cell) not in taken], ignored, regions, others)


def _no_cell(found: GeoObject, choice: Choice) -> str:
    """Why an object is no cell; nothing where it may be one."""
    if found.kind not in CELL_KINDS:
        return f"of the kind {found.kind}"
    if not found.plane:
        return "in another plane"
    if found.kind == "cell" and choice.nuclei and not found.nucleus:
        return "without a nucleus"
    return "" if any(len(ring) > 2 for ring in choice.outline(found)) else "without an area"


def _around_others(cells: Sequence[GeoObject], choice: Choice) -> list[GeoObject]:
    """Annotations around two other objects, by their boxes; those that ``predict`` wrote are cells all the same."""
    if len(cells) < 3:
        return []
    corners = [np.concatenate(choice.outline(cell)) for cell in cells]
    low = np.array([ring.min(axis=0) for ring in corners])
    high = np.array([ring.max(axis=0) for ring in corners])
    areas = (high - low).prod(axis=1)
    large = np.flatnonzero(areas >= REGION_SIZE * np.median(areas))
    return [
        cells[place]
        for place in large.tolist()
        if cells[place].kind == "annotation"
        and not cells[place].predicted
        and ((low >= low[place]) & (high <= high[place])).all(axis=1).sum() > 2
    ]


def _covered(objects: Sequence[GeoObject], size: tuple[int, int]) -> NDArray[np.bool_]:
    return cover([Shape.of_rings(item.name, 0, item.rings, size) for item in objects], size)


def find_labelled(
    root: Path, annotation_file: Path | None = None, region: str = "", outline: str = "cell"
) -> LabelledSet:
    """The images with a GeoJSON file of their name, sorted by id, and the classes of their objects.

    Args:
        root: the folder of both, or of their folders.
        annotation_file: not used.
        region: only objects inside annotations of this class; the rest of the image is ignored.
        outline: ``cell`` or ``nucleus``, which of the two outlines of a cell is taken.

    Raises:
        CellSegError: no file is found, or one has no image.
    """
    if outline not in ("cell", "nucleus"):
        raise CellSegError(f"outline={outline} is not known; write outline=cell or outline=nucleus")
    choice = Choice(region, outline == "nucleus")
    pairs, notes = find_pairs(root, _name_of, f"*{SUFFIX} file")

    def classes_in(path: Path) -> set[str]:
        return {cell.class_name or UNCLASSIFIED for cell in sort_objects(read_objects(path), choice).cells}

    names = all_classes([pair.annotations for pair in pairs], classes_in) or (UNCLASSIFIED,)
    images = [QuPathImage(pair.id, pair.image, pair.annotations, names, choice) for pair in pairs]
    return LabelledSet(images, [CLASS_NAME] if names == (UNCLASSIFIED,) else list(names), notes)


def _name_of(path: Path) -> str | None:
    return path.stem if path.suffix.lower() == SUFFIX else None


READER = Reader(
    "qupath",
    "x.geojson beside an image x.tif, or in a folder beside its; region=CLASS: only inside such annotations; "
    "outline=nucleus: of cells the nucleus",
    has_files(f"*{SUFFIX}"),
    find_labelled,
    ("region", "outline"),
)
