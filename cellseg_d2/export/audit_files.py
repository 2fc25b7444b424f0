"""The list of an audit as files: ``audit.json``, ``audit.csv``, and GeoJSON per image, which QuPath opens."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.audit import Doubt
from cellseg_d2.export.geojson import class_properties, geometry_of
from cellseg_d2.files import whole_file, write_csv, write_json

COLUMNS = ("rank", "image", "part", "kind", "score", "labelled", "predicted", "x", "y", "width", "height")


def write_list(folder: Path, doubts: Sequence[Doubt], class_names: Sequence[str], about: Mapping[str, Any]) -> None:
    """Writes ``audit.json``, with what it is ``about``, and ``audit.csv``: rows of :data:`COLUMNS`, worst first.

    Raises:
        CellSegError: a file cannot be written.
    """
    rows = [row_of(doubt, class_names) for doubt in doubts]
    write_json(folder / "audit.json", {**about, "doubts": rows}, indent=1)
    write_csv(folder / "audit.csv", COLUMNS, [list(row.values()) for row in rows])


def row_of(doubt: Doubt, class_names: Sequence[str]) -> dict[str, Any]:
    """An entry by :data:`COLUMNS`; a class that there is none of is empty."""
    x0, y0, x1, y1 = doubt.box
    image, found = doubt.audited.image, doubt.found
    labelled, predicted = (class_names[n] if n >= 0 else "" for n in (found.labelled, found.predicted))
    place = (x0, y0, x1 - x0, y1 - y0)
    values = (doubt.rank, image.name, image.part, found.kind, round(found.score, 6), labelled, predicted, *place)
    return dict(zip(COLUMNS, values))


def write_doubts_geojson(folder: Path, doubts: Sequence[Doubt], class_names: Sequence[str]) -> list[Path]:
    """Writes ``<image>.geojson`` for each image that has doubts, in pixels of the image; gives the files.

    A doubt is one annotation, or several for ``merged``: what the model proposes, in its class; for ``spurious`` the
    labelled cell. The name says what is doubted, and begins with the rank.

    Raises:
        CellSegError: a file cannot be written, or an image's name leads out of the folder.
    """
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for doubt in doubts:
        by_name[doubt.audited.image.name] += _features(doubt, class_names)
    written = []
    for name, features in by_name.items():
        plain = PurePosixPath(name)
        if plain.is_absolute() or ".." in plain.parts:
            raise CellSegError(f"{name!r} is no name for an image of a dataset; convert again")
        path = folder / f"{name}.geojson"
        with whole_file(path) as partial:
            partial.write_text(json.dumps({"type": "FeatureCollection", "features": features}) + "\n", encoding="utf-8")
        written.append(path)
    return written


def _features(doubt: Doubt, class_names: Sequence[str]) -> list[dict[str, Any]]:
    row = row_of(doubt, class_names)
    classes = [f"{key} {row[key]}" for key in ("labelled", "predicted") if row[key]]
    name = f"{doubt.rank} {doubt.found.kind} {doubt.found.score:.2f}: {', '.join(classes)}"
    shown = doubt.proposal.instances()
    return [
        {
            "type": "Feature",
            "geometry": geometry_of(mask, origin),
            "properties": {
                "objectType": "annotation",
                "name": name,
                "classification": class_properties(number, class_names),
            },
        }
        for mask, origin, number in zip(shown.masks, shown.origins, shown.classes.tolist())
    ]
