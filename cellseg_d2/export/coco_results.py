"""``test-results.json``: COCO results with compressed RLE masks, read back and checked."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pycocotools.coco import COCO

from cellseg_d2.cells.coco import Result
from cellseg_d2.cells.coco_masks import read_masks
from cellseg_d2.errors import CellSegError, size_text
from cellseg_d2.files import whole_file, zip_entry


class ResultsWriter:
    """Writes the results of one image after the other, so that all of them never lie in memory.

    Attributes:
        count: results written so far.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.count = 0

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[ResultsWriter]:
        """A writer of a JSON file that appears whole at the end, or not at all if anything fails.

        Raises:
            CellSegError: the file cannot be written.
        """
        with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
            file.write("[")
            yield cls(file)
            file.write("]")

    def append(self, results: Iterable[Result]) -> None:
        """Writes results behind those that are there."""
        for result in results:
            self._file.write(("," if self.count else "") + json.dumps(result, separators=(",", ":")))
            self.count += 1


def zip_results(path: Path) -> Path:
    """Packs a results file into an archive beside it, as COCO's evaluation servers take it.

    The same results make the same archive byte by byte.

    Returns:
        The archive, ``test-results.zip`` of ``test-results.json``.

    Raises:
        CellSegError: the archive cannot be written.
    """
    packed = path.with_suffix(".zip")
    entry = zip_entry(path.name)
    entry.file_size = path.stat().st_size  # tells zipfile beforehand whether the entry passes 2 GB
    with (
        path.open("rb") as source,
        whole_file(packed) as partial,
        zipfile.ZipFile(partial, "w") as archive,
        archive.open(entry, "w") as target,
    ):
        shutil.copyfileobj(source, target)
    return packed


def check_results(path: Path, sizes: Mapping[Any, tuple[int, int]], categories: Collection[Any]) -> int:
    """Reads a results file back with pycocotools and checks what COCO's evaluation would reject.

    Args:
        path: the file.
        sizes: image id -> (height, width).
        categories: the category ids there are.

    Returns:
        The number of results.

    Raises:
        CellSegError: no such file, an unknown image or category, a mask that is not of its image's size or damaged, or
            a file that pycocotools does not load.
    """
    try:
        with path.open(encoding="utf-8") as file:
            results = json.load(file)
        for result in results:
            _check_result(result, sizes, categories)
        masks = [result["segmentation"] for result in results]
        for place, fault in read_masks(masks, [None] * len(masks)).faults.items():
            raise ValueError(f"result {place}, counted from 0, {fault}")
        if results:
            truth = COCO()
            truth.dataset = {
                "images": [{"id": number, "height": h, "width": w} for number, (h, w) in sizes.items()],
                "annotations": [],
                "categories": [{"id": number} for number in categories],
            }
            with contextlib.redirect_stdout(io.StringIO()):
                truth.createIndex()
                truth.loadRes(results)  # it reads a file's name with json.load too, and would hold the results twice
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise CellSegError(f"{path}: COCO's evaluation would reject it: {error}") from error
    return len(results)


def _check_result(result: Result, sizes: Mapping[Any, tuple[int, int]], categories: Collection[Any]) -> None:
    image_id = result["image_id"]
    if image_id not in sizes:
        raise ValueError(f"image id {image_id} is not among the images")
    if result["category_id"] not in categories:
        raise ValueError(f"category id {result['category_id']} is not among the categories")
    height, width = result["segmentation"]["size"]
    if (height, width) != tuple(sizes[image_id]):
        raise ValueError(f"a mask of image {image_id} is {height} x {width}, the image {size_text(sizes[image_id])}")
