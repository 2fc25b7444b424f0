"""Pictures of images beside their predictions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cellseg_d2.cells.coco import Record, by_image, class_places
from cellseg_d2.cells.coco_input import read_pair, read_results
from cellseg_d2.cells.image_names import NamedImages, Names
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_cells import class_names
from cellseg_d2.export.overlay import class_keys, write_picture
from cellseg_d2.export.record import Record as ResultsRecord
from cellseg_d2.export.record import selected_cells
from cellseg_d2.images.channels import Rule, as_picture
from cellseg_d2.images.listing import RESULTS_RECORD, ByFileName, InputImage
from cellseg_d2.images.tiff import INTENSITY_RULE
from cellseg_d2.report.comparison import compare, comparison_keys, to_instances
from cellseg_d2.report.panels import cell_panel, count_text, image_panel
from cellseg_d2.report.sheet import draw_sheet

logger = logging.getLogger(__name__)


def write_prediction_grid(
    images: Sequence[InputImage],
    results: Path,
    output: Path,
    *,
    ground_truth: Path | None = None,
    numbered: bool = True,
    score_threshold: float | None = None,
    samples: int | None = None,
    rule: Rule = INTENSITY_RULE,
) -> None:
    """Writes a PNG of images, each beside its ground truth if given and its predicted cells, below a legend.

    With ground truth, the cells that COCO's matching at an IoU of 0.5 leaves without a partner are marked: rings on
    missed cells in the ground truth, crosses on spurious cells in the prediction.

    Args:
        images: the images to show, with their ids.
        results: COCO results, such as ``test-results.json``. Where a file beside them names their images, the names
            count instead of ids, and images that were not predicted are left out.
        output: the PNG.
        ground_truth: a COCO dataset.
        numbered: whether ``images`` have the ids of the results; if not, the ground truth gives them by file name.
        score_threshold: cells with a lower score are neither drawn nor matched; None for what ``predict`` used, see
            :func:`cellseg_d2.export.record.selected_cells`.
        samples: how many of the images, the first ones; None for all.
        rule: how images that are not 8 bit are scaled, and which channels are shown.

    Raises:
        CellSegError: a file cannot be read or is of another form, or the ground truth does not list an image; none of
            the images was predicted.
    """
    predicted = NamedImages.beside(results)
    if predicted is not None:
        images = _predicted(images, predicted)
    images = images[:samples]
    if ground_truth is None:
        truth, given = None, read_results([results]).files[0]
        names = _class_names(results, given)
        keys, places = class_keys(names), {number: number - 1 for number in range(1, len(names) + 1)}
    else:
        dataset, given = read_pair(ground_truth, results, only_predicted=predicted is not None)
        truth = by_image(dataset["annotations"])
        keys, names, places = comparison_keys(dataset["categories"]), class_names(dataset), class_places(dataset)
        if predicted is not None:
            ids = predicted.among(dataset["images"], ground_truth).numbers
            images = [replace(image, id=ids[image.id]) for image in images]
        elif not numbered:
            images = _numbered_as(images, dataset["images"], ground_truth)
    selection = selected_cells(results, names, score_threshold)
    found = by_image(given)
    if given and predicted is None and not {image.id for image in images} & {result["image_id"] for result in given}:
        logger.warning("%s: has no result of the images shown; do their ids agree? --image-ids names them", results)
    groups = []
    for shown in images:
        image, name = as_picture(shown.read(rule), rule), str(shown.path)
        if truth is None:
            cells = selection.of(to_instances(found[shown.id], image, places, name)[0])
            panels = [cell_panel(f"prediction: {count_text(len(cells))}", image, cells)]
        else:
            panels = compare(image, truth[shown.id], found[shown.id], places, selection, name)
        groups.append([image_panel(shown.file_name, image), *panels])
    write_picture(output, draw_sheet(groups, keys))


def _class_names(results: Path, given: Sequence[Record]) -> list[str]:
    """The names that ``predict`` wrote beside its results; without them the numbers of their categories."""
    if (results.parent / RESULTS_RECORD).is_file():
        return ResultsRecord.read(results.parent).class_names
    largest = max((result["category_id"] for result in given), default=0)
    return [f"class {number}" for number in range(1, largest + 1)]


def _predicted(images: Sequence[InputImage], predicted: NamedImages) -> list[InputImage]:
    """The images that were predicted, with the ids of the results."""
    names = Names([name for name, _, _ in predicted.entries])
    found = []
    for image in images:
        places = names.find(image.file_name)
        if len(places) > 1:
            first, second = (predicted.entries[place][0] for place in places[:2])
            raise CellSegError(f"{image.path}: may be {first!r} or {second!r} of {predicted.path}; give their folder")
        found += [replace(image, id=predicted.entries[place][1]) for place in places]
    if not found:
        raise CellSegError(f"{predicted.path}: has none of the images to show, such as {images[0].path}; predict them")
    if len(found) < len(images):
        count = len(images) - len(found)
        logger.warning("%s: %d of %d images were not predicted, and left out", predicted.path, count, len(images))
    return found


def _numbered_as(images: Sequence[InputImage], records: Sequence[Record], source: Path) -> list[InputImage]:
    """Images with the ids that a dataset's records have for their file names."""
    named = ByFileName(images)
    ids = {image.path: record["id"] for record in records if (image := named[str(record["file_name"])]) is not None}
    if unknown := [image.path for image in images if image.path not in ids]:
        raise CellSegError(f"{unknown[0]}: is not listed by {source}; give the ids of the images with --image-ids")
    return [replace(image, id=ids[image.path]) for image in images]
