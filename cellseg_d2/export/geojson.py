"""Outlines as GeoJSON that QuPath opens: one detection, or one annotation, a cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellseg_d2.cells.arrays import Bools, Ints
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.outlines import Ring, trace
from cellseg_d2.export.overlay import class_color
from cellseg_d2.files import whole_file


def write_geojson(
    path: Path, instances: CellInstances, class_names: Sequence[str], object_type: str = "detection"
) -> None:
    """Writes the cells' outlines as a GeoJSON FeatureCollection (RFC 7946), one feature a line.

    Coordinates are pixels of the full image, (x, y), along the pixels' edges, see :mod:`cellseg_d2.cells.outlines`:
    no pixel is lost or gained. The properties are those that QuPath from 0.4 on writes itself (its class
    ``QuPathTypeAdapters``; 0.3 took measurements in another form): by default a cell is a
    ``detection``, of which QuPath shows hundreds of thousands, while it edits outlines of an ``annotation`` alone; its
    name is the cell's id, 1 .. N in the order of ``instances``; its score is a measurement. QuPath's object ids are
    left out, it gives them itself.

    Args:
        path: the file, by custom ``.geojson``.
        instances: cells with a pixel each.
        class_names: the names of class 0, 1, ...
        object_type: ``detection`` or ``annotation``.

    Raises:
        CellSegError: the file cannot be written.
    """
    classes = [class_properties(number, class_names) for number in range(len(class_names))]
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write('{"type":"FeatureCollection","features":[')
        for number, (mask, origin) in enumerate(zip(instances.masks, instances.origins)):
            feature = {
                "type": "Feature",
                "geometry": geometry_of(mask, origin),
                "properties": {
                    "objectType": object_type,
                    "name": str(number + 1),
                    "classification": classes[instances.classes[number]],
                    "measurements": {"score": round(float(instances.scores[number]), 6)},
                },
            }
            file.write((",\n" if number else "\n") + json.dumps(feature, separators=(",", ":")))
        file.write("\n]}\n")


def class_properties(number: int, class_names: Sequence[str]) -> dict[str, Any]:
    """A class as QuPath states it under ``classification``: its name and its colour."""
    return {"name": class_names[number], "color": [int(value) for value in class_color(number)]}


def geometry_of(mask: Bools, origin: Ints) -> dict[str, Any]:
    """A mask's outline, exactly, as a GeoJSON geometry in pixels of the image.

    Args:
        mask: (h, w) bool, with a pixel.
        origin: (x, y) of its first pixel in the image.
    """
    coordinates = [[_closed(ring) for ring in polygon] for polygon in trace(mask, origin)]
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}


def _closed(ring: Ring) -> list[list[int]]:
    points: list[list[int]] = ring.tolist()
    return [*points, points[0]]
