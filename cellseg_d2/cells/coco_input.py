"""COCO ground truth and results as people bring them: read, checked and brought to one form before anything is scored.

After that, ids are whole numbers, every mask is a compressed RLE that fits its image, every record has its box, and
plain pycocotools reads it. What cannot be derived is one line that names the file, the image and the position.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cellseg_d2.cells.coco import MAX_PIXELS, Record, Result, to_rle
from cellseg_d2.cells.coco_ids import Finder, Ids, category_ids, image_ids, is_id
from cellseg_d2.cells.coco_masks import Size, has_mask, is_side
from cellseg_d2.cells.coco_records import (
    LARGEST_NUMBER,
    MOST_PIXELS,
    Records,
    add_sizes,
    annotation_ids,
    box_of,
    crowd_of,
    is_utf8,
    number_records,
    short,
)
from cellseg_d2.cells.image_names import IDS_FILE, Entry, NamedIds, NamedImages, common_ids
from cellseg_d2.errors import CellSegError, size_text
from cellseg_d2.files import read_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Truth:
    """A COCO dataset whose ids and names are sound.

    Attributes:
        path: the file.
        images: image records with ``id``, ``height`` and ``width``, these two only where they are known.
        categories: category records with ``id`` and ``name``, which no two share.
        image_ids, category_ids: what the file calls them.
        annotations: None where the file has no such list.
    """

    path: Path
    images: list[Record]
    categories: list[Record]
    image_ids: Ids
    category_ids: Ids
    annotations: Records | None


@dataclass(frozen=True)
class ResultFiles:
    """Results files that agree on their ids.

    Attributes:
        files: the results of each in one form.
        image_ids, category_ids: what the files call them.
        images: all images that were predicted; None where not every file names its own.
    """

    files: list[list[Result]]
    image_ids: Ids
    category_ids: Ids
    images: list[Entry] | None


def read_truth(path: Path) -> Record:
    """A COCO dataset in one form; ``annotations`` stays away where the file has none.

    Annotations without a pixel are left out, and a log line names them; a file without any mask is one of boxes.

    Raises:
        CellSegError: the file cannot be read, is of another form, or has a damaged record.
    """
    return _dataset(open_truth(path))


def read_pair(ground_truth: Path, results: Path, only_predicted: bool = False) -> tuple[Record, list[Result]]:
    """A COCO dataset and COCO results of it in one form, see :func:`read_truth`.

    A result without a mask among others with masks gets an empty one, which finds nothing. Images are the same if they
    have the same name, where a file beside the results names them, and otherwise if they have the same id.

    Args:
        ground_truth: the dataset.
        results: the results.
        only_predicted: leaves out images of the dataset that were not predicted; otherwise a log line counts them.

    Raises:
        CellSegError: also where a result is of an image or category that the dataset does not list; with
            ``only_predicted`` also where no file beside the results says what was predicted.
    """
    content = _list(results, read_json(results), "is no list of COCO results")
    predicted = NamedImages.beside(results)
    if only_predicted and predicted is None:
        raise CellSegError(
            f"{results}: there is no {IDS_FILE} beside it that says which images were predicted; predict again, or "
            "leave --only-predicted out"
        )
    find_images = None if predicted is None else partial(predicted.among, source=ground_truth)
    truth = open_truth(ground_truth, content, find_images=find_images)
    if truth.annotations is None:
        raise CellSegError(f"{ground_truth}: is no COCO dataset with images, annotations and categories")
    images = truth.image_ids if find_images is None else find_images(truth.images)
    if predicted is not None:
        predicted.add_sizes(truth.images, images)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth.images if "height" in image}
    found = number_records(results, "result", content, images, truth.category_ids, sizes.get, f"{ground_truth}")
    found.refuse_heaps(MOST_PIXELS)
    dataset = _dataset(truth)
    if isinstance(images, NamedIds):
        dataset = images.predicted(dataset, ground_truth, only_predicted)
    return dataset, _results(found, sizes)


def read_results(paths: Sequence[Path]) -> ResultFiles:
    """COCO results without their ground truth, each file in one form; masks of one image may differ in size.

    Images are the same if they have the same name, where files beside all results name them, and otherwise if they have
    the same id.

    Raises:
        CellSegError: a file cannot be read, is of another form, or has a damaged record; names contradict each other.
    """
    contents = [_list(path, read_json(path), "is no list of COCO results") for path in paths]
    records = [record for content in contents for record in content if isinstance(record, dict)]
    named, entries = common_ids(paths)
    raws = [record.get("image_id") for record in records] if entries is None else [number for _, number, _ in entries]
    images = image_ids(filter(is_id, raws))
    finders: Sequence[Finder] = [images] * len(paths) if entries is None else named
    categories = category_ids(filter(is_id, (record.get("category_id") for record in records)))
    sizes: dict[int | None, Size] = {}
    for content, finder in zip(contents, finders):
        add_sizes(sizes, content, finder)
    files = []
    for path, content, finder in zip(paths, contents, finders):
        found = number_records(path, "result", content, finder, categories, sizes.get, "")
        found.refuse_heaps(math.inf)
        files.append(_results(found, sizes))
    return ResultFiles(files, images, categories, entries)


def open_truth(
    path: Path,
    results: Iterable[Any] = (),
    find_size: Callable[[Record], Size] | None = None,
    find_images: Callable[[list[Record]], Finder] | None = None,
) -> Truth:
    """A COCO dataset whose masks are read and not refused yet.

    Args:
        path: the file.
        results: results whose masks tell the sizes of images that neither their records nor the annotations' masks do.
        find_size: finds the size of an image, given its record, that nothing else tells.
        find_images: the images of the results by their ids, given the dataset's; None where ids are the same.

    Raises:
        CellSegError: the file cannot be read, or is of another form.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not {"images", "categories"} <= set(content):
        raise CellSegError(f"{path}: is no COCO dataset with images, annotations and categories")
    image_numbers = _ids(path, "image", content["images"], image_ids)
    category_numbers = _ids(path, "category", content["categories"], category_ids)
    images = [_image(path, place, record, image_numbers) for place, record in enumerate(content["images"])]
    categories = _categories(path, content["categories"], category_numbers)
    if "annotations" not in content:
        return Truth(path, images, categories, image_numbers, category_numbers, None)
    annotations = _list(path, content["annotations"], "has annotations that are no list; write a COCO dataset")
    sizes: dict[int | None, Size] = {
        image["id"]: (image["height"], image["width"]) for image in images if "height" in image
    }
    if len(sizes) < len(images):
        add_sizes(sizes, annotations, image_numbers)
        add_sizes(sizes, results, image_numbers if find_images is None else find_images(images))
    for image in images:
        if image["id"] not in sizes and find_size is not None:
            sizes[image["id"]] = find_size(image)
        if image["id"] in sizes:
            image["height"], image["width"] = sizes[image["id"]]
    given = number_records(path, "annotation", annotations, image_numbers, category_numbers, sizes.get, f"{path}")
    return Truth(path, images, categories, image_numbers, category_numbers, given)


def without_pixel(truth: Truth) -> str:
    """A line that counts and names the annotations without a pixel; empty where there are none."""
    records = truth.annotations
    places = [] if records is None else _without_pixel(records)
    if records is None or not places:
        return ""
    return (
        f"{truth.path}: {len(places)} of {len(records.given)} annotations have no pixel, as they are empty, outside "
        f"their image or thinner than a pixel, and are left out: {records.several(places)}"
    )


def _without_pixel(records: Records) -> list[int]:
    return [
        place
        for place, area in enumerate(records.masks.areas.tolist())
        if not area and place not in records.masks.faults
    ]


# Ground truth


def _dataset(truth: Truth) -> Record:
    """The dataset in one form; refuses damaged records and warns of those without a pixel."""
    content: Record = {"images": truth.images, "categories": truth.categories}
    for image in truth.images:
        height, width = image.setdefault("height", 1), image.setdefault("width", 1)  # nothing in it has a pixel
        if height * width > MAX_PIXELS:
            name = short(truth.image_ids.original(image["id"]))
            raise CellSegError(
                f"{truth.path}: image {name} is {size_text((height, width))}; COCO's scores are of at most "
                f"{MAX_PIXELS} pixels, so judge parts of it"
            )
    records = truth.annotations
    if records is not None:
        records.refuse_damaged()
        records.refuse_heaps(MOST_PIXELS)
        masked = any(has_mask(record.get("segmentation")) for record in records.given)
        if masked and (line := without_pixel(truth)):
            logger.warning("%s", line)
        content["annotations"] = _annotations(records, masked)
    return content


def _annotations(records: Records, masked: bool) -> list[Record]:
    numbers = annotation_ids(records.given)
    boxes, areas = records.masks.boxes.tolist(), records.masks.areas.tolist()
    annotations = []
    for place, (record, rle, area) in enumerate(zip(records.given, records.masks.rles, areas)):
        if masked and not area:
            continue
        box = box_of(records, place, record) or boxes[place]
        if rle is None and not record.get("bbox"):
            records.refuse(place, "has neither a mask nor a box; add one")
        stated = record.get("area")
        known = isinstance(stated, (int, float)) and 0 <= stated <= LARGEST_NUMBER
        annotation = {
            "id": numbers[place],
            "image_id": records.images[place],
            "category_id": records.categories[place],
            "bbox": box,
            "area": stated if known else area if masked else box[2] * box[3],
            "iscrowd": crowd_of(records, place, record),
        }
        if rle is not None:
            annotation["segmentation"] = rle
        annotations.append(annotation)
    return annotations


def _ids(path: Path, kind: str, records: Any, numbering: Callable[[Iterable[Any]], Ids]) -> Ids:
    """The ids of a dataset's images or categories.

    Raises:
        CellSegError: one is missing, is none, or is there twice.
    """
    plural = {"image": "images", "category": "categories"}[kind]
    raws = []
    for place, record in enumerate(_list(path, records, f"has {plural} that are no list; write a COCO dataset")):
        if not isinstance(record, dict) or not is_id(record.get("id")) or not is_utf8(str(record["id"])):
            what = short(record.get("id")) if isinstance(record, dict) else short(record)
            raise CellSegError(
                f"{path}: {kind} {place}, counted from 0, has the id {what}; write a whole number or text"
            )
        raws.append(record["id"])
    ids = numbering(raws)
    if len(ids) < len(raws):
        twice = Counter(map(ids.find, raws)).most_common(1)[0][0]
        shown = short(ids.original(twice or 0))
        raise CellSegError(f"{path}: has two {plural} of the id {shown}; each needs its own")
    return ids


def _image(path: Path, place: int, record: Record, ids: Ids) -> Record:
    name, number = record.get("file_name"), ids.find(record["id"])
    tissue = record.get("tissue")
    if isinstance(tissue, (int, float)):  # PanNuke numbers them
        record = {**record, "tissue": str(tissue)}
    for key in ("file_name", "tissue"):
        value = record.get(key)
        if value is not None and not (isinstance(value, str) and is_utf8(value)):
            raise CellSegError(f"{path}: image {place}, counted from 0, has the {key} {short(value)}; write text")
    image = {**record, "id": number, "file_name": name or str(record["id"])}
    height, width = record.get("height"), record.get("width")
    if height is None or width is None:
        return {key: value for key, value in image.items() if key not in ("height", "width")}
    if not (is_side(height) and is_side(width)):
        shown = f"{short(height)} and {short(width)}"
        raise CellSegError(
            f"{path}: image {place}, counted from 0, has the height and width {shown}; write whole numbers above 0"
        )
    return {**image, "height": int(height), "width": int(width)}


def _categories(path: Path, records: Sequence[Record], ids: Ids) -> list[Record]:
    """Categories with names: that of the id where there is none, and with the id where several share one."""
    names = []
    for place, record in enumerate(records):
        name, number = record.get("name"), record["id"]
        if name is not None and (not isinstance(name, (str, int, float)) or not is_utf8(str(name))):
            raise CellSegError(f"{path}: category {place}, counted from 0, has the name {short(name)}; write text")
        unnamed = number if isinstance(number, str) and not number.isdigit() else f"category {_plain(number)}"
        names.append(unnamed if name is None or name == "" else str(name))
    counts = Counter(names)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        logger.warning("%s: several categories are called %r; they are told apart by their ids", path, repeated[0])
    return [
        {
            **record,
            "id": ids.find(record["id"]),
            "name": f"{name} ({_plain(record['id'])})" if counts[name] > 1 else name,
        }
        for record, name in zip(records, names)
    ]


# Results


def _results(records: Records, sizes: dict[Any, Size]) -> list[Result]:
    """The results in one form; refuses damaged ones and warns of those without a mask among others with masks."""
    records.refuse_damaged()
    masked = any(rle is not None for rle in records.masks.rles)
    bare = [place for place, rle in enumerate(records.masks.rles) if rle is None] if masked else []
    if bare:
        count = f"{len(bare)} of {len(records.given)}"
        logger.warning(
            "%s: %s results have no mask, so their masks find nothing: %s", records.path, count, records.several(bare)
        )
    boxes = records.masks.boxes.tolist()
    results = []
    for place, (record, rle) in enumerate(zip(records.given, records.masks.rles)):
        score = record.get("score")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) <= LARGEST_NUMBER:
            records.refuse(place, f"has the score {short(score)}; give it a number")
        box = box_of(records, place, record)
        if not masked and box is None:
            records.refuse(place, "has neither a mask nor a box; add one")
        result = {
            "image_id": records.images[place],
            "category_id": records.categories[place],
            "bbox": box or boxes[place],
            "score": score,
        }
        if masked:
            size = sizes.get(records.images[place], (1, 1))
            result["segmentation"] = rle or to_rle({"size": list(size), "counts": [size[0] * size[1]]}, size)
        results.append(result)
    return results


def _list(path: Path, content: Any, problem: str) -> list[Any]:
    if not isinstance(content, list):
        raise CellSegError(f"{path}: {problem}")
    return content


def _plain(raw: Any) -> str:
    return str(int(raw)) if isinstance(raw, float) else str(raw)
