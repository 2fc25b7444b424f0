"""Outlines that were drawn in Aperio ImageScope, the XML of MoNuSAC and MoNuSeg.

Its form::

<Annotations><Annotation>
  <Attributes><Attribute Name="Epithelial" .../></Attributes>
  <Regions>...<Region ...><Attributes/><Vertices><Vertex X="12.5" Y="30" .../>...</Vertices></Region></Regions>
</Annotation>...</Annotations>
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.errors import CellSegError

Polygon = NDArray[np.float64]
"""(V, 2), x and y of the corners."""

_TCGA_PATIENT = re.compile(r"TCGA-\w{2}-\w{4}(?=-|$)")


def patient_of(name: str) -> str:
    """The patient, which is a part of TCGA's names; nothing of other names.

    >>> patient_of("TCGA-A7-A13E-01Z-00-DX1")
    'TCGA-A7-A13E'
    """
    match = _TCGA_PATIENT.match(name)
    return match[0] if match else ""


def read_layers(path: Path) -> list[tuple[str, list[Polygon]]]:
    """The layers of an XML that have outlines: the name of the first attribute, and the outlines in the file's order.

    Raises:
        CellSegError: not such a file, or damaged.
    """
    root = _parse(path)
    if root.tag != "Annotations":
        raise CellSegError(f"{path}: begins with <{root.tag}>, not with ImageScope's <Annotations>")
    layers = []
    for annotation in root.iterfind("Annotation"):
        polygons = [_polygon(region, path) for region in annotation.iterfind("Regions/Region")]
        if polygons:  # ImageScope's empty layers have any name
            name = next((entry.get("Name", "") for entry in annotation.iterfind("Attributes/Attribute")), "")
            layers.append((name, polygons))
    return layers


def _parse(path: Path) -> Element:
    """Parses XML without a document type: that alone can name other files or blow up a small file in memory."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise CellSegError(f"{path}: has a document type (DTD), which ImageScope never writes; remove it")

    parser.StartDoctypeDeclHandler = refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
        return builder.close()
    except (expat.ExpatError, LookupError, ValueError, OSError) as error:  # an unknown encoding is a LookupError
        raise CellSegError(f"{path}: is damaged ({error}); copy or unpack it again") from error


def _polygon(region: Element, path: Path) -> Polygon:
    try:
        corners = [(float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iterfind("Vertices/Vertex")]
    except (KeyError, ValueError) as error:
        raise CellSegError(f"{path}: has a Vertex without a number for X or Y; correct it in ImageScope") from error
    polygon = np.array(corners, np.float64).reshape(-1, 2)
    if not np.isfinite(polygon).all():
        raise CellSegError(f"{path}: has a Vertex at infinity or NaN; correct it in ImageScope")
    return polygon
