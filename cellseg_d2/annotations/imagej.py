"""ImageJ's and Fiji's ROIs, ``x.zip`` or ``x.roi`` of the image ``x.tif``."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellseg_d2.annotations.pairs import all_classes, find_pairs, has_files
from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.annotations.roi_files import Roi, read_rois, roi_names
from cellseg_d2.annotations.shapes import Shape, labels_of, named, paint_shapes
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import visible_entries
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import is_image, read_with_header

logger = logging.getLogger(__name__)

CLASS_NAME = "cell"
NO_CLASS = "none"

PREDICTED = re.compile(r"(?P<id>\d+)_(?P<name>.+)_[01]\.\d\d(-\d+)?")
"""The names that our export gives: ``<id>_<class>_<score>``; ImageJ puts ``-1`` behind a second one of a name."""

CLASS_KEYS = ("class", "classification", "qupath.object.classification")

_SET_NAME = re.compile(r"(?:(?P<front>.*)[_-])?roi_?set(?:[_-](?P<back>.*))?|(?P<rois>.+)[_-]rois?", re.IGNORECASE)


def _of_property(roi: Roi) -> str:
    return next((roi.properties[key] for key in CLASS_KEYS if roi.properties.get(key)), "")


def _of_group(roi: Roi) -> str:
    return f"group{roi.group}" if roi.group else ""


def _of_predicted_name(roi: Roi) -> str:
    match = PREDICTED.fullmatch(roi.name)
    return match["name"] if match else ""


def _of_name(roi: Roi) -> str:
    """A name without the number behind it; nothing of ImageJ's default names, which are numbers."""
    if predicted := _of_predicted_name(roi):
        return predicted
    front = re.sub(r"[\s._-]*\d*$", "", roi.name)
    return front if re.search(r"[^\d\s._-]", front) else ""


SOURCES: Mapping[str, Callable[[Roi], str]] = {
    "property": _of_property,
    "group": _of_group,
    "predicted": _of_predicted_name,
    "name": _of_name,
    "one": lambda roi: "",
}
"""Where a ROI's class may come from. Without a choice it is the first of three that any ROI has, or one class."""


def _class_of(roi: Roi, source: str, known: Collection[str]) -> str:
    """A ROI's class; beside ROIs of ``known`` classes that ``predict`` wrote, others may be called by their class."""
    name = SOURCES[source](roi)
    if source == "predicted" and not name:
        name = roi.name if roi.name in known else _of_name(roi)
    return name or NO_CLASS


@dataclass(frozen=True)
class RoiImage(LabelledImage):
    """An image with its ROIs.

    Attributes:
        id: the image's name.
        image: the image.
        rois: the ``.roi`` file or the archive.
        class_names: the names of class 1, 2, ...
        source: where the class comes from, of :data:`SOURCES`.
    """

    id: str
    image: Path
    rois: Path
    class_names: tuple[str, ...]
    source: str

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`."""
        image, stated = read_with_header(self.image, rule, max_pixels)
        size = (image.shape[0], image.shape[1])
        rois = read_rois(self.rois)
        kinds = {"in another plane": [roi for roi in rois if roi.is_area and not roi.plane]}
        kinds["without an area"] = [roi for roi in rois if not roi.is_area]
        if notes := [f"{named(roi.name for roi in group)} {reason}" for reason, group in kinds.items() if group]:
            logger.warning("%s: left out: %s", self.rois, "; ".join(notes))
        return ImageLabels(image, paint_shapes(self.rois, self._shapes(_cells(rois), size), size), stated)

    def _shapes(self, rois: Sequence[Roi], size: tuple[int, int]) -> list[Shape]:
        shapes = []
        for roi, label in zip(rois, _labels(rois)):
            category = self.class_names.index(_class_of(roi, self.source, self.class_names)) + 1
            if roi.oval is not None:
                shapes.append(Shape.of_ellipse(roi.name, category, roi.oval, size, label))
            else:
                shapes.append(Shape.of_rings(roi.name, category, roi.rings, size, label))
        return shapes


def _cells(rois: Sequence[Roi]) -> list[Roi]:
    return [roi for roi in rois if roi.is_area and roi.plane]


def _labels(rois: Sequence[Roi]) -> list[int]:
    """The numbers in the names."""
    matches = [PREDICTED.fullmatch(roi.name) for roi in rois]
    texts = [match["id"] if match else roi.name for match, roi in zip(matches, rois)]
    return labels_of([int(text) if text.isdecimal() and len(text) < 10 else None for text in texts])


def find_labelled(root: Path, annotation_file: Path | None = None, class_from: str = "") -> LabelledSet:
    """The images with ROIs of their name, sorted by id, and the ROIs' classes.

    Args:
        root: the folder of both, or of their folders.
        annotation_file: not used.
        class_from: where a ROI's class comes from, of :data:`SOURCES`.

    Raises:
        CellSegError: no ROIs are found, some have no image, or ``class_from`` is not known.
    """
    if class_from and class_from not in SOURCES:
        raise CellSegError(f"class_from={class_from} is not known; choose from {', '.join(SOURCES)}")
    pairs, notes = find_pairs(root, _name_of, "*.roi file or zip of these")
    files = [pair.annotations for pair in pairs]
    source = class_from
    if not source:
        has = all_classes(files, lambda path: {key for key in SOURCES for roi in read_rois(path) if SOURCES[key](roi)})
        source = next((key for key in ("property", "group", "predicted") if key in has), "one")
    known: tuple[str, ...] = ()
    if source == "predicted":
        known = all_classes(files, lambda path: {_of_predicted_name(roi) for roi in read_rois(path)})
    names = all_classes(files, lambda path: {_class_of(roi, source, known) for roi in _cells(read_rois(path))})
    names = names or (NO_CLASS,)
    images = [RoiImage(pair.id, pair.image, pair.annotations, names, source) for pair in pairs]
    return LabelledSet(images, [CLASS_NAME] if names == (NO_CLASS,) else list(names), notes)


def _name_of(path: Path) -> str | None:
    """The image ``x`` of ``x.roi``, ``x.zip``, ``x_RoiSet.zip``, ``RoiSet_x.zip`` and ``x_rois.zip``.

    Of ``RoiSet.zip`` it is the only image in its folder.
    """
    if path.suffix.lower() != ".roi" and (path.suffix.lower() != ".zip" or roi_names(path) == []):
        return None
    match = _SET_NAME.fullmatch(path.stem)
    if match is None:
        return path.stem
    if name := match["front"] or match["back"] or match["rois"]:
        return name
    images = [entry for entry in visible_entries(path.parent) if is_image(entry)]
    return images[0].name if len(images) == 1 else path.stem


def _recognises(root: Path) -> bool:
    if has_files("*.roi")(root):
        return True
    return any(roi_names(path) for pattern in ("*.zip", "*/*.zip") for path in root.glob(pattern))


READER = Reader(
    "imagej",
    "x.roi or a zip of ROIs, x.zip or x_RoiSet.zip, beside an image x.tif, or in a folder beside its; class_from=name, "
    "group, property or one",
    _recognises,
    find_labelled,
    ("class_from",),
)
