"""Other formats from results that ``predict`` wrote, without the network: needs neither torch nor Detectron2."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from cellseg_d2.cells.coco import Result, by_image, to_rle
from cellseg_d2.cells.image_names import IDS_FILE, read_image_ids
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.selection import Selection
from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.export.coco_dataset import DatasetWriter, to_annotations
from cellseg_d2.export.counts import COUNTS_FILE, ImageCounts, write_counts
from cellseg_d2.export.formats import COCO_DATASET, DETECTION, ImageCells, pixels_for, write_image
from cellseg_d2.export.record import RESULTS_FILE, Record
from cellseg_d2.files import read_json
from cellseg_d2.images.channels import PixelRule
from cellseg_d2.images.listing import ByFileName, InputImage
from cellseg_d2.progress import track


@dataclass(frozen=True)
class Results:
    """A folder of results of ``predict``.

    Attributes:
        folder: the folder.
        record: what it says of itself.
        images: its images, with their sizes; their paths are names alone.
        by_image: COCO results by image id.
        selection: the cells that people see, as in the files that are there.
    """

    folder: Path
    record: Record
    images: list[InputImage]
    by_image: Mapping[Any, list[Result]]
    selection: Selection

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Those of a folder.

        Raises:
            CellSegError: a file is missing or damaged, or results are of an image that is not listed.
        """
        record = Record.read(folder)
        if not (folder / RESULTS_FILE).is_file():
            raise CellSegError(
                f"{folder}: has no {RESULTS_FILE} to make other formats from; predict with --formats coco"
            )
        entries = [(PurePosixPath(name), number, size) for name, number, size in read_image_ids(folder / IDS_FILE)]
        places = ("" if name.parent == PurePosixPath() else str(name.parent) for name, _, _ in entries)
        images = [InputImage(number, Path(name.name), size, at) for (name, number, size), at in zip(entries, places)]
        try:
            found = by_image(read_json(folder / RESULTS_FILE))
        except (KeyError, TypeError) as error:
            raise CellSegError(f"{folder}: its files are not those that predict writes ({one_line(error)})") from error
        if unknown := found.keys() - {image.id for image in images}:
            raise CellSegError(f"{folder / RESULTS_FILE}: has results of image {min(unknown)}, which {IDS_FILE} lacks")
        return cls(folder, record, images, found, record.selected)

    def cells(self, image: InputImage) -> CellInstances:
        """All cells of an image.

        Raises:
            CellSegError: its size is not stated, or a result is damaged.
        """
        where = self.folder / RESULTS_FILE
        if image.size is None:
            raise CellSegError(f"{self.folder / IDS_FILE}: {image.file_name!r} has no height and width; add them")
        found, names = self.by_image[image.id], self.record.class_names
        try:
            rles = [to_rle(result["segmentation"], image.size) for result in found]
            classes = [result["category_id"] - 1 for result in found]
            cells = CellInstances.from_rles(rles, classes, image.size, [float(result["score"]) for result in found])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise CellSegError(f"{where}: a result of {image.file_name!r} is damaged ({one_line(error)})") from error
        if len(cells) and not 0 <= cells.classes.min() <= cells.classes.max() < len(names):
            raise CellSegError(
                f"{where}: a result of {image.file_name!r} is of a category that is not in 1..{len(names)}"
            )
        return cells


def export_results(
    results: Results,
    output: Path,
    formats: Collection[str],
    selection: Selection,
    files: Sequence[InputImage] = (),
    object_type: str = DETECTION,
) -> dict[str, int]:
    """Writes files of some formats, the same as ``predict`` writes, and ``counts.csv``.

    Args:
        results: what to write.
        output: the folder for the files; it may be that of the results, for the cells that its files have already.
        formats: some of :data:`cellseg_d2.export.formats.LATER_FORMATS`.
        selection: which cells.
        files: the images themselves, found by their names. Overlays need them; without them tables have no mean
            intensities, and LabelMe looks for an image beside its file.
        object_type: what cells are in QuPath, of :data:`cellseg_d2.export.formats.OBJECT_TYPES`.

    Returns:
        Class name -> number of cells.

    Raises:
        CellSegError: an image is missing, cannot be read or is of another size, a result is damaged, or a file cannot
            be written.
    """
    in_place = os.path.realpath(output) == os.path.realpath(results.folder)
    if in_place and selection != results.selection:
        raise CellSegError(f"{output}: its files have cells of other least scores; give another --output for these")
    if "overlay" in formats and not files:
        raise CellSegError("overlays are drawn on the images; give them with --input")
    named, counts, names = ByFileName(files), [], results.record.class_names
    with DatasetWriter.open(output, names) if COCO_DATASET in formats else nullcontext() as dataset:
        for image in track(results.images, len(results.images), "export"):
            cells = selection.of(results.cells(image))
            file = _file_of(named, image) if files else None
            pixels = _pixels(file, formats, results.record.pixel_rule) if file else None
            pixel_size, path = results.record.pixel_sizes_um.get(image.file_name), file.path if file else None
            shown = ImageCells(
                *(output, image.name, cells, names, pixels, pixel_size, image.file_name),
                *(path, object_type, results.record.channels),
            )
            write_image(shown, formats)
            if dataset is not None:
                height, width = cells.image_size
                entry = {"file_name": image.file_name, "id": image.id, "height": height, "width": width}
                dataset.append(entry, to_annotations(cells))
            counts.append(ImageCounts.of(image.file_name, cells, len(names), pixel_size))
    write_counts(output / COUNTS_FILE, counts, names)
    if not in_place:
        stated = {key: value for key, value in asdict(selection).items() if key != "class_names"}
        replace(results.record, selection=stated).write(output)
    return {name: sum(image.cells[number] for image in counts) for number, name in enumerate(names)}


def _file_of(named: ByFileName, image: InputImage) -> InputImage:
    """The image itself, of the size that it had."""
    file = named[image.file_name]
    if file is None:
        raise CellSegError(f"{image.file_name}: is not among the images of --input; give the folder that was predicted")
    return replace(file, size=image.size)


def _pixels(file: InputImage, formats: Collection[str], rule: PixelRule) -> Any:
    """An image's pixels as far as the formats use them."""
    with file.open(rule) as regions:
        return pixels_for(formats, regions, file.path)
