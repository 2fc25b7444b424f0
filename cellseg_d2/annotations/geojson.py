"""Objects of a GeoJSON file as QuPath writes them (its classes ``QuPathTypeAdapters`` and ``ROITypeAdapters``).

A file is a FeatureCollection, a list of features, or one feature. Coordinates are (x, y) in pixels of the full image,
from its upper left corner; pixel x covers x .. x + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellseg_d2.annotations.shapes import Ring
from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.files import read_json

ROOT = "root"
LEGACY_TYPES = {  # QuPath 0.2 kept the type in the feature's id
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tmaCore",
    "PathRootObject": ROOT,
}

AREAS = ("Polygon", "MultiPolygon", "GeometryCollection")
OTHER_GEOMETRIES = ("Point", "MultiPoint", "LineString", "MultiLineString")

SCORE = "score"
"""The measurement that ``predict`` writes."""

LARGEST_COORDINATE = 1e9


@dataclass(frozen=True, eq=False)
class GeoObject:
    """One object of a file.

    Attributes:
        name: what messages call it: its place in the file, and its name there.
        kind: ``annotation``, ``detection``, ``cell``, ``tile`` or ``tmaCore``.
        class_name: its class, derived ones as ``A: B``; None for an object without.
        rings: its outlines, those of holes too; none where it has no area.
        nucleus: a cell's nucleus in the same form.
        plane: whether it lies in the first plane of a stack.
        number: its name in the file, where that is a number above 0.
        predicted: whether it has the measurement ``score``, which ``predict`` writes.
    """

    name: str
    kind: str
    class_name: str | None
    rings: list[Ring]
    nucleus: list[Ring]
    plane: bool
    number: int | None
    predicted: bool


def read_objects(path: Path) -> list[GeoObject]:
    """The objects of a file in its order, those below others too, but not the root, which stands for the image.

    Raises:
        CellSegError: it cannot be read, is no GeoJSON, or an object is damaged, which is named.
    """
    content = read_json(path)
    if isinstance(content, dict):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(content, list):
        raise CellSegError(f"{path}: is neither a FeatureCollection nor a list of features; export it as GeoJSON")
    found = [_object(path, number, feature) for number, feature in enumerate(_with_children(content), start=1)]
    return [one for one in found if one.kind != ROOT]


def _with_children(features: list[Any]) -> Iterator[Any]:
    """Features, each followed by those below it."""
    waiting = features[::-1]
    while waiting:
        feature = waiting.pop()
        yield feature
        properties = feature.get("properties") if isinstance(feature, dict) else None
        if isinstance(properties, dict):
            children = properties.get("childObjects", properties.get("children"))
            waiting += children[::-1] if isinstance(children, list) else []


def _object(path: Path, number: int, feature: Any) -> GeoObject:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise CellSegError(f"{path}: object {number} is no GeoJSON feature; export it again")
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise CellSegError(f"{path}: object {number} has properties that are no JSON object; export it again")
    given = str(properties.get("name") or "")
    name = f"object {number}" + (f" {given!r}" if given else "")
    geometry = feature.get("geometry")
    try:
        plane = (geometry or {}).get("plane") or {}
        return GeoObject(
            name,
            _kind(feature, properties),
            _class_name(properties.get("classification")),
            _rings(geometry),
            _rings(feature.get("nucleusGeometry")),
            not (plane.get("z") or plane.get("t")),
            int(given) if given.isdecimal() and 0 < int(given) <= np.iinfo(np.int32).max else None,
            _has_score(properties.get("measurements")),
        )
    except (ArithmeticError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise CellSegError(f"{path}: {name} is damaged ({one_line(error)}); remove it or export it again") from error


def _kind(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    known = [properties.get(key) for key in ("objectType", "object_type", "type")]
    kind = next((value for value in known if value), None) or LEGACY_TYPES.get(str(feature.get("id")), "annotation")
    return "tmaCore" if kind == "tma_core" else LEGACY_TYPES.get(kind, kind)


def _has_score(measurements: Any) -> bool:
    """Whether there is a score among measurements, an object or, of QuPath 0.3 and older, a list of such."""
    if isinstance(measurements, list):
        return any(isinstance(one, dict) and one.get("name") == SCORE for one in measurements)
    return isinstance(measurements, dict) and SCORE in measurements


def _class_name(classification: Any) -> str | None:
    """``A: B`` of ``names``, of a name with its parents (QuPath 0.2), or of such a name itself."""
    if classification is None:
        return None
    if isinstance(classification, str):
        return classification or None
    names = classification.get("names")
    if names is None:
        parent, child = _class_name(classification.get("parentClass")), classification.get("name")
        names = [name for name in (parent, child) if name]
    return ": ".join(str(name) for name in names) or None


def _rings(geometry: Any) -> list[Ring]:
    """The outlines of a geometry; none of points and lines."""
    if geometry is None:
        return []
    kind = geometry["type"]
    if kind == "GeometryCollection":
        return [ring for part in geometry["geometries"] for ring in _rings(part)]
    if kind not in (*AREAS, *OTHER_GEOMETRIES):
        raise ValueError(f"its geometry is of the type {kind!r}")
    if kind not in AREAS:
        return []
    polygons = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
    return [_ring(ring) for polygon in polygons for ring in polygon]


def _ring(points: Any) -> Ring:
    ring = np.array([point[:2] for point in points], np.float64).reshape(-1, 2)
    if not (np.abs(ring) <= LARGEST_COORDINATE).all():  # NaN compares False
        raise ValueError(f"its coordinates are not finite numbers up to {LARGEST_COORDINATE:.0e}")
    return ring
