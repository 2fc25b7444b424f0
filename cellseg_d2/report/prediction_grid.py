"""Pictures of images beside their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cellseg_d2.cells.coco import Record, by_image
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.overlay import draw_grid, draw_overlay, write_picture
from cellseg_d2.files import read_json
from cellseg_d2.images.listing import InputImage
from cellseg_d2.images.tiff import INTENSITY_RULE
from cellseg_d2.report.comparison import compare, to_instances
from cellseg_d2.report.panels import stacked, titled


def write_prediction_grid(
    images: Sequence[InputImage],
    results: Path,
    output: Path,
    *,
    ground_truth: Path | None = None,
    numbered: bool = True,
    score_threshold: float = 0.5,
    rule: str = INTENSITY_RULE,
) -> None:
    """Writes a PNG with one row per image: the image, its ground truth if given, and its predicted cells.

    With ground truth, crosses mark the cells that COCO's matching at an IoU of 0.5 leaves without a partner: missed
    cells in the ground truth, spurious cells in the prediction.

    Args:
        images: the images to show, with their ids.
        results: COCO results, such as ``test-results.json``.
        output: the PNG.
        ground_truth: a COCO dataset.
        numbered: whether ``images`` have the ids of the results; if not, the ground truth gives them by file name.
        score_threshold: cells with a lower score are neither drawn nor matched.
        rule: how images that are not 8 bit are scaled.

    Raises:
        CellSegError: a file cannot be read or is of another form, or the ground truth does not list an image.
    """
    try:
        found = by_image(result for result in read_json(results) if result["score"] >= score_threshold)
        dataset = None if ground_truth is None else read_json(ground_truth)
        truth = None if dataset is None else by_image(dataset["annotations"])
        if dataset is not None and not numbered:
            images = _numbered_as(images, dataset["images"], ground_truth)
    except (KeyError, TypeError) as error:
        files = " or ".join(str(path) for path in (results, ground_truth) if path is not None)
        raise CellSegError(f"{files}: holds no COCO results, or no COCO dataset ({error})") from error
    rows = []
    for shown in images:
        image, name = shown.read(rule), str(shown.path)
        if truth is None:
            cells, _ = to_instances(found[shown.id], image, name)
            panels = [(draw_overlay(image, cells), f"prediction: {len(cells)} cells")]
        else:
            panels = compare(image, truth[shown.id], found[shown.id], name)
        row = [titled(panel, text) for panel, text in [(image, shown.path.name), *panels]]
        rows.append(draw_grid(row, columns=len(row)))
    write_picture(output, stacked(rows))


def _numbered_as(images: Sequence[InputImage], records: Sequence[Record], source: Path | None) -> list[InputImage]:
    """Images with the ids that a dataset's records give to their file names."""
    ids = {Path(record["file_name"]).name: record["id"] for record in records}
    if unknown := [image.path for image in images if image.path.name not in ids]:
        raise CellSegError(f"{unknown[0]}: is not listed by {source}; give the ids of the images with --image-ids")
    return [replace(image, id=ids[image.path.name]) for image in images]
