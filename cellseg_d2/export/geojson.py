"""Outlines as GeoJSON that QuPath opens: one detection, or one annotation, a cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.outlines import Polygon, Ring, trace
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
    classes = [
        {"name": name, "color": [int(value) for value in class_color(number)]}
        for number, name in enumerate(class_names)
    ]
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write('{"type":"FeatureCollection","features":[')
        for number, (mask, origin) in enumerate(zip(instances.masks, instances.origins)):
            feature = {
                "type": "Feature",
                "geometry": _geometry(trace(mask, origin)),
                "properties": {
                    "objectType": object_type,
                    "name": str(number + 1),
                    "classification": classes[instances.classes[number]],
                    "measurements": {"score": round(float(instances.scores[number]), 6)},
                },
            }
            file.write((",\n" if number else "\n") + json.dumps(feature, separators=(",", ":")))
        file.write("\n]}\n")


def _geometry(polygons: list[Polygon]) -> dict[str, Any]:
    coordinates = [[_closed(ring) for ring in polygon] for polygon in polygons]
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}


def _closed(ring: Ring) -> list[list[int]]:
    points: list[list[int]] = ring.tolist()
    return [*points, points[0]]
