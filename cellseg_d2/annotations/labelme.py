"""LabelMe's JSON, ``x.json`` of the image ``x.jpg``: polygons, rectangles, circles and masks."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cellseg_d2.annotations.pairs import all_classes, left_out, list_files, match_images
from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.annotations.shapes import Shape, cover, labels_of, named, paint_shapes
from cellseg_d2.cells.label_maps import ignore_regions
from cellseg_d2.errors import CellSegError, one_line, size_text
from cellseg_d2.files import read_json
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import is_image, read_with_header

logger = logging.getLogger(__name__)

IGNORE = "__ignore__"
"""LabelMe's name for what is neither cell nor background."""

AREAS = ("polygon", "rectangle", "oriented_rectangle", "circle", "mask")
OTHERS = ("point", "points", "line", "linestrip")

BEGINNING = 4096
"""Bytes that are looked at to tell LabelMe's JSON from other JSON."""

LARGEST_COORDINATE = 1e9


@dataclass(frozen=True)
class LabelMeImage(LabelledImage):
    """An image with its shapes.

    Attributes:
        id: the image's name.
        image: the image.
        shapes: the JSON file.
        class_names: the names of class 1, 2, ...
    """

    id: str
    image: Path
    shapes: Path
    class_names: tuple[str, ...]

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`; shapes of one label and one ``group_id`` are one cell."""
        image, stated = read_with_header(self.image, rule, max_pixels)
        size = (image.shape[0], image.shape[1])
        content = read_labelme(self.shapes)
        drawn_on = (content.get("imageHeight"), content.get("imageWidth"))
        if None not in drawn_on and drawn_on != size:
            sizes = f"{drawn_on[0]} x {drawn_on[1]}, {self.image.name} is {size_text(size)}"
            raise CellSegError(f"{self.shapes}: was drawn on an image of {sizes}; put the right image there")
        places = list(enumerate(content["shapes"], start=1))
        others = [f"shape {place}" for place, shape in places if shape["shape_type"] not in AREAS]
        if others:
            logger.warning("%s: left out: %s without an area", self.shapes, named(others))
        cells = [self._shape(place, shape, size) for place, shape in places if shape["shape_type"] in AREAS]
        ignored = cover([shape for shape, label, _ in cells if label == IGNORE], size)
        layers = paint_shapes(self.shapes, _joined([cell for cell in cells if cell[1] != IGNORE], size), size)
        if ignored.any():
            layers.append(ignore_regions(ignored, class_count))
        return ImageLabels(image, layers, stated)

    def _shape(self, place: int, shape: Mapping[str, Any], size: tuple[int, int]) -> tuple[Shape, str, Any]:
        """A shape with its label and its group."""
        label = shape["label"]
        name = f"shape {place} {label!r}"
        category = 0 if label == IGNORE else self.class_names.index(label) + 1
        try:
            return _to_shape(name, category, shape, size), label, shape.get("group_id")
        except (ArithmeticError, ValueError, TypeError, LookupError, OSError, SyntaxError) as error:
            raise CellSegError(f"{self.shapes}: {name} is damaged ({one_line(error)}); draw it again") from error


def _to_shape(name: str, category: int, shape: Mapping[str, Any], size: tuple[int, int]) -> Shape:
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    if not (np.abs(points) <= LARGEST_COORDINATE).all():  # NaN compares False
        raise ValueError(f"its points are not finite numbers up to {LARGEST_COORDINATE:.0e}")
    kind = shape["shape_type"]
    if kind in ("polygon", "oriented_rectangle"):
        return Shape.of_rings(name, category, [points], size)
    (x0, y0), (x1, y1) = points.tolist()
    if kind == "rectangle":
        return Shape.of_rings(name, category, [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])], size)
    if kind == "circle":  # its centre, and a point on it
        radius = float(np.hypot(x1 - x0, y1 - y0))
        return Shape.of_ellipse(name, category, (x0 - radius, y0 - radius, x0 + radius, y0 + radius), size)
    mask = _mask(shape["mask"])
    (left, top), (right, bottom) = points.round().astype(int).tolist()  # of its first and last pixel
    if (points % 1 == 0).all():  # where LabelMe has moved the corners by fractions, the mask knows better
        height, width = bottom - top + 1, right - left + 1
        if mask.shape[0] < height or mask.shape[1] < width:
            raise ValueError(f"its mask is {size_text(mask.shape)}, its box {height} x {width}")
        mask = mask[:height, :width]
    return Shape.of_mask(name, category, mask, size, (left, top))


def _mask(text: str) -> NDArray[np.bool_]:
    """A PNG in base64; what is not 0 belongs to it."""
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as picture:
        pixels = np.asarray(picture)
    if pixels.ndim != 2:
        raise ValueError("its mask has several channels")
    return pixels > 0


def _joined(shapes: Sequence[tuple[Shape, str, Any]], size: tuple[int, int]) -> list[Shape]:
    """The parts of one cell, those of one label and one group, as one shape; groups that are numbers are its label."""
    groups: dict[tuple[Any, Any], list[Shape]] = {}
    for place, (shape, label, group) in enumerate(shapes):
        groups.setdefault((place, None) if group is None else (label, group), []).append(shape)
    labels = labels_of([group if type(group) is int else None for _, group in groups])
    joined = [parts[0] if len(parts) == 1 else Shape.union(parts, size) for parts in groups.values()]
    return [replace(shape, label=label) for shape, label in zip(joined, labels)]


def read_labelme(path: Path) -> dict[str, Any]:
    """The content of a LabelMe file; each shape has a label and a known type.

    Raises:
        CellSegError: it cannot be read, or is of another form; the shape is named.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise CellSegError(f"{path}: has no list of shapes, as LabelMe writes it; save it there again")
    for place, shape in enumerate(content["shapes"], start=1):
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"]:
            raise CellSegError(f"{path}: shape {place} has no label; give it one in LabelMe")
        if not isinstance(shape.get("group_id"), (int, str, type(None))):
            raise CellSegError(f"{path}: shape {place} has a group that is no number; give it another in LabelMe")
        shape.setdefault("shape_type", "polygon")  # LabelMe 3 knew no other
        if shape["shape_type"] not in (*AREAS, *OTHERS):
            known = ", ".join(AREAS)
            raise CellSegError(
                f"{path}: shape {place} is of the type {shape['shape_type']!r}; draw it as one of {known}"
            )
    return content


def find_labelled(root: Path, annotation_file: Path | None = None) -> LabelledSet:
    """The images with a LabelMe file, sorted by id, and its labels as classes.

    Raises:
        CellSegError: no file is found, or one has no image.
    """
    files = list_files(root)
    jsons = [path for path in files if path.suffix.lower() == ".json" and _is_labelme(path)]
    if not jsons:
        raise CellSegError(f"{root}: holds no JSON file of LabelMe, nor does a folder in it; give the folder of these")
    images = [path for path in files if is_image(path)]
    names = {path.name for path in images}
    pairs = match_images([(_image_name(path, names), path) for path in jsons], images)

    def labels_in(path: Path) -> set[str]:
        shapes = read_labelme(path)["shapes"]
        return {shape["label"] for shape in shapes if shape["shape_type"] in AREAS} - {IGNORE}

    classes = all_classes(jsons, labels_in) or ("cell",)
    notes = left_out(root, images, pairs)
    return LabelledSet([LabelMeImage(*pair, classes) for pair in pairs], list(classes), notes)


def _image_name(path: Path, images: set[str]) -> str:
    """The file name of ``imagePath``, written on any system, where there is such an image; else the JSON's."""
    try:
        content = read_json(path)
    except CellSegError:  # reported when its image is read
        return path.stem
    stated = content.get("imagePath") if isinstance(content, dict) else None
    name = PureWindowsPath(stated).name if isinstance(stated, str) else ""
    return name if name in images else path.stem


def _is_labelme(path: Path) -> bool:
    """Whether the first lines are LabelMe's."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"shapes"' in file.read(BEGINNING)


READER = Reader(
    "labelme",
    "x.json of LabelMe beside an image, or in a folder beside its",
    lambda root: any(_is_labelme(path) for pattern in ("*.json", "*/*.json") for path in root.glob(pattern)),
    find_labelled,
)
