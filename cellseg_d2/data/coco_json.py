"""COCO records of tiles and whole images, and the JSON files that hold them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cellseg_d2.data.labels import CellMeasures, LabelLayer
from cellseg_d2.data.rle import encode_label_map
from cellseg_d2.data.tiling import Window
from cellseg_d2.errors import CellSegError, one_line

Record = dict[str, Any]

AnyRecord = TypeVar("AnyRecord", bound=Mapping[str, Any])


def by_image(records: Iterable[AnyRecord]) -> defaultdict[Any, list[AnyRecord]]:
    """COCO annotations or results by image id, in order; none for other ids."""
    found: defaultdict[Any, list[AnyRecord]] = defaultdict(list)
    for record in records:
        found[record["image_id"]].append(record)
    return found


def annotate(
    layers: Sequence[LabelLayer],
    window: Window,
    measures: Sequence[CellMeasures] | None = None,
    min_area: int = 0,
    min_visible: float = 0.0,
) -> list[Record]:
    """COCO annotations, without ids, of the cells in a window of an image's label maps.

    Args:
        layers: of the full image.
        window: what to annotate, (x0, y0, x1, y1), half open; boxes and masks are in its frame.
        measures: of each layer's cells in the full image: with them ``min_visible`` is used, and all windows together
            need one pass over the pixels.
        min_area: cells with fewer pixels in the window are left out.
        min_visible: a cell that keeps less than this share of its area becomes ``iscrowd: 1``, which COCO's evaluation
            neither rewards nor punishes.
    """
    annotations: list[Record] = []
    x0, y0, x1, y1 = window
    for place, layer in enumerate(layers):
        if measures is None:
            cells = encode_label_map(layer.labels[y0:y1, x0:x1])
            whole = cells.areas
        else:
            cells, places = measures[place].encode(window)
            whole = measures[place].areas[places]
        crowd = layer.crowd | (cells.areas < min_visible * whole)
        boxes = np.concatenate([cells.boxes[:, :2], cells.boxes[:, 2:] - cells.boxes[:, :2]], axis=1)
        columns = (boxes, cells.areas, crowd.astype(np.int64), cells.ids)
        for bbox, area, ignored, label, rle in zip(*(column.tolist() for column in columns), cells.rles):
            if area >= min_area:
                cell = {"bbox": bbox, "area": area, "iscrowd": ignored, "segmentation": rle, "label": label}
                annotations += [{"category_id": number, **cell} for number in layer.categories]
    return annotations


def dataset(
    images: Sequence[Record], annotations: Sequence[Sequence[Record]] | None, class_names: Sequence[str]
) -> Record:
    """A COCO dataset with image ids (where an image has none) and annotation ids from 1 in the order given.

    Args:
        images: image records.
        annotations: one list an image; None for images whose cells are not known.
        class_names: of the category ids 1, 2, ...
    """
    numbered = [{"id": number, **image} for number, image in enumerate(images, start=1)]
    content: Record = {"images": numbered}
    if annotations is not None:
        pairs = ((image["id"], own) for image, given in zip(numbered, annotations, strict=True) for own in given)
        content["annotations"] = [
            {"id": number, "image_id": image, **own} for number, (image, own) in enumerate(pairs, start=1)
        ]
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
    return content


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        CellSegError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CellSegError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # of JSON, or of UTF-8
        raise CellSegError(f"{path}: is not JSON ({one_line(error, 100)})") from error


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Writes JSON as UTF-8, compact unless ``indent`` is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    separators = (",", ":") if indent is None else None
    path.write_text(json.dumps(content, indent=indent, separators=separators) + "\n", encoding="utf-8")
