"""Pixel sizes in microns, from the places where each format states them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import tifffile

PixelSize = tuple[float, float]
"""(x, y) in microns per pixel."""

COARSEST_UM = 20.0
"""Resolution tags with larger pixels are ignored: they state a screen's or printer's dots (72, 96 or 300 dpi, which
many programs write by default), and a cell would be smaller than a pixel."""

MICRONS = {
    "pm": 1e-6,
    "picometer": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "": 1.0,
    "um": 1.0,
    "µm": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "in": 25_400.0,
    "inch": 25_400.0,
    "m": 1e6,
    "meter": 1e6,
}
"""Length unit, as OME-XML, OME-Zarr (UDUNITS-2 names) and ImageJ write it, in lower case -> microns. An empty text is
OME-XML's default."""


def stated(x: Any, y: Any, coarsest: float = math.inf) -> PixelSize | None:
    """The pixel size if both sides are numbers above 0 and at most ``coarsest``, else None."""
    try:
        size = float(x), float(y)
    except (TypeError, ValueError):
        return None
    return size if all(0 < side <= coarsest and math.isfinite(side) for side in size) else None


def _in_microns(x: Any, y: Any, unit_x: Any, unit_y: Any) -> PixelSize | None:
    units = [MICRONS.get(_plain(unit)) for unit in (unit_x, unit_y)]
    try:
        return stated(float(x) * (units[0] or math.nan), float(y) * (units[1] or math.nan))
    except (TypeError, ValueError):
        return None


def _plain(unit: Any) -> str:
    """A unit in lower case, with one of the two micro signs; ImageJ escapes it."""
    return str(unit).strip().lower().replace("\\u00b5", "µ").replace("μ", "µ")


def tiff_pixel_size(file: tifffile.TiffFile, page: Any) -> PixelSize | None:
    """The pixel size of a TIFF: OME-XML's, else ImageJ's, else that of the resolution tags.

    Args:
        file: open; the first image of its OME-XML is taken.
        page: a full-resolution page.
    """
    size = None
    if file.pages.first.is_ome:
        size = ome_xml_pixel_size(file.pages.first.description)
    if size is None and file.is_imagej and file.imagej_metadata and "unit" in file.imagej_metadata:
        x, y = (_per_dot(page, tag) for tag in ("XResolution", "YResolution"))
        unit = file.imagej_metadata["unit"]
        size = _in_microns(x, y, unit, unit) if _plain(unit) else None
    if size is None:
        x, y = (_per_dot(page, tag) for tag in ("XResolution", "YResolution"))
        unit = {2: "inch", 3: "cm"}.get(int(page.tags.valueof("ResolutionUnit", 2)))  # TIFF 6.0: inch unless stated
        size = _in_microns(x, y, unit, unit)
        size = stated(*size, COARSEST_UM) if size else None
    quarter_turn = page.tags.valueof("Orientation", 1) in range(5, 9)
    return size[::-1] if size and quarter_turn else size


def _per_dot(page: Any, tag: str) -> float | None:
    """Resolution units per pixel, from a rational number of pixels per unit."""
    value = page.tags.valueof(tag)
    try:
        return float(value[1] / value[0])
    except (TypeError, ZeroDivisionError, IndexError):
        return None


def ome_xml_pixel_size(xml: str) -> PixelSize | None:
    """PhysicalSizeX and PhysicalSizeY of the first image.

    https://docs.openmicroscopy.org/ome-model/6.3.1/developers/ome-units.html
    """
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, LookupError, ValueError):  # an unknown encoding is a LookupError
        return None
    pixels = next((element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    x, y = (pixels.get(f"PhysicalSize{axis}") for axis in "XY")
    return _in_microns(x, y, pixels.get("PhysicalSizeXUnit", ""), pixels.get("PhysicalSizeYUnit", ""))


def ome_zarr_pixel_size(image: Mapping[str, Any], axes: Sequence[Any]) -> PixelSize | None:
    """The scale of the full-resolution array, times that of the whole image, where the axes have units.

    Args:
        image: an entry of ``multiscales``, https://ngff.openmicroscopy.org/0.4/#multiscale-md.
        axes: its axes, ``{"name": "x", "type": "space", "unit": "micrometer"}`` each.
    """
    scale = [1.0] * len(axes)
    found = False
    for transform in (
        *(image["datasets"][0].get("coordinateTransformations") or ()),
        *(image.get("coordinateTransformations") or ()),
    ):
        factors = transform.get("scale")
        if transform.get("type") == "scale" and isinstance(factors, list) and len(factors) == len(axes):
            found = True
            scale = [so_far * factor for so_far, factor in zip(scale, factors)]
    names = [axis.get("name") if isinstance(axis, dict) else None for axis in axes]
    if not found or not {"x", "y"} <= set(names):
        return None
    x, y = names.index("x"), names.index("y")
    return _in_microns(scale[x], scale[y], axes[x].get("unit") or "pixel", axes[y].get("unit") or "pixel")
