"""MoNuSeg: ``Annotations/x.xml``, outlines from ImageScope, of the image ``Tissue Images/x.tif``; one class.

The form is that of MoNuSAC's XML, see :mod:`cellseg_d2.annotations.imagescope`, but what layers are called is not said.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cellseg_d2.annotations.imagescope import patient_of, read_layers
from cellseg_d2.annotations.monusac import AMBIGUOUS, CLASS_NAMES
from cellseg_d2.annotations.pairs import find_pairs
from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.annotations.shapes import Shape, paint_shapes
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import read_with_header

CLASS_NAME = "nucleus"


@dataclass(frozen=True)
class MoNuSegImage(LabelledImage):
    """An image with its outlines.

    Attributes:
        id: the image's name.
        image: the image.
        outlines: the XML.
        group: the patient, a part of TCGA's names; empty for other names.
    """

    id: str
    image: Path
    outlines: Path
    group: str = ""

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`; coordinates are those of pixels' centres, as in MoNuSAC."""
        image, stated = read_with_header(self.image, rule, max_pixels)
        size = (image.shape[0], image.shape[1])
        rings = [ring for _, outlines in read_layers(self.outlines) for ring in outlines]
        shapes = [
            Shape.of_rings(f"region {place}", 1, [ring], size, centre=0.0) for place, ring in enumerate(rings, start=1)
        ]
        return ImageLabels(image, paint_shapes(self.outlines, shapes, size), stated)


def find_labelled(root: Path, annotation_file: Path | None = None) -> LabelledSet:
    """The images with an XML of their name, sorted by id.

    Raises:
        CellSegError: no file is found, or one has no image.
    """
    pairs, notes = find_pairs(root, _name_of, "*.xml file")
    return LabelledSet([MoNuSegImage(*pair, group=patient_of(pair.id)) for pair in pairs], [CLASS_NAME], notes)


def _name_of(path: Path) -> str | None:
    return path.stem if path.suffix.lower() == ".xml" else None


def _recognises(root: Path) -> bool:
    """Whether the first XML is of ImageScope and has none of MoNuSAC's classes."""
    path = next((path for level in ("", "*/") for path in sorted(root.glob(f"{level}*.xml"))), None)
    try:
        return path is not None and not {name for name, _ in read_layers(path)} & {*CLASS_NAMES, AMBIGUOUS}
    except CellSegError:
        return False


READER = Reader(
    "monuseg",
    "MoNuSeg's Annotations/x.xml, outlines from ImageScope, of Tissue Images/x.tif",
    _recognises,
    find_labelled,
)
