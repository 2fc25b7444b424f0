"""Merges several sets of results: of two checkpoints, or of two passes over the same images, whole and in tiles.

The method is Weighted Boxes Fusion (Solovyev et al., Image and Vision Computing 2021) with masks instead of boxes:
instances of several files that overlap become one cell, and its score grows with the number of files that have it.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.coco import Result, by_image, to_results
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.rle import decode_runs
from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.export.coco_results import ResultsWriter, check_results
from cellseg_d2.files import read_json, whole_file
from cellseg_d2.inference.overlaps import Bools, Floats, Ints, overlapping_pairs

logger = logging.getLogger(__name__)

Size = tuple[int, int]


def merge(
    passes: Sequence[CellInstances],
    *,
    weights: Sequence[float] | None = None,
    iou: float = 0.5,
    class_agnostic: bool = False,
) -> CellInstances:
    """Joins the instances that several passes found in one image: those of different passes in the same place.

    The instance with the best score that is in no cluster yet forms one with the instance of each other pass that it
    overlaps most, and so on. Instances of one pass are never joined, because the pass has decided to keep both. The
    order of the passes does not matter, only their weights do.

    Args:
        passes: the instances that each pass found.
        weights: the weight of each pass, above 0; all 1 if not given.
        iou: masks with a larger IoU than this show one cell; in [0, 1).
        class_agnostic: whether instances of different classes are joined too; the class with most votes wins. Otherwise
            all of them stay as different guesses, which is better for average precision.

    Returns:
        One instance per cluster, sorted by falling score. The vote of an instance is its score times the weight of its
        pass. A cluster's score is the sum of the votes for its class divided by the sum of all weights, so a pass
        without the cell counts as 0. Its box is the mean of the members' boxes, weighted by their votes. Its mask is
        that of the best member if this has at least half of the votes, as always with two passes; otherwise it is the
        pixels that have at least half of the votes.

    Raises:
        ValueError: the passes are of images of different sizes, or none is given.
    """
    weights = [1.0] * len(passes) if weights is None else weights
    cells = CellInstances.concatenate(passes)
    source = np.repeat(np.arange(len(passes)), [len(cells_of_pass) for cells_of_pass in passes])
    weight = np.array(weights, np.float64)[source]
    votes = weight * cells.scores / math.fsum(weights)
    order = _ranking(cells, votes, weight)
    cells, source, votes = cells[order], source[order], votes[order]
    leader = _leaders(cells, source, iou, class_agnostic)

    members: defaultdict[int, list[int]] = defaultdict(list)
    for number, first in enumerate(leader.tolist()):
        members[first].append(number)
    leads = np.array(list(members), np.int64)
    elected = [_elect(cells.classes, votes, cluster) for cluster in members.values()]
    classes, scores = np.array(elected, np.float64).reshape(-1, 2).T
    voted = [_voted_mask(cells, votes, cluster) for cluster in members.values()]
    merged = CellInstances(
        cells.image_size,
        _mean_boxes(cells.boxes, votes, leader)[leads],
        scores.astype(np.float32),
        classes.astype(np.int64),
        [mask for mask, _ in voted],
        np.array([origin for _, origin in voted], np.int64).reshape(-1, 2),
    )
    return merged[np.argsort(-merged.scores, kind="stable")].trimmed()


def _ranking(cells: CellInstances, votes: Floats, weight: Floats) -> Ints:
    """Indices of the cells, the best vote first; the given order only matters for cells that are equal in all else."""
    keys = zip((-votes).tolist(), (-weight).tolist(), cells.classes.tolist(), cells.mask_boxes.tolist(), cells.masks)
    ranked = sorted((*key, mask.tobytes(), number) for number, (*key, mask) in enumerate(keys))
    return np.array([number for *_, number in ranked], np.int64)


def _leaders(cells: CellInstances, source: Ints, iou: float, class_agnostic: bool) -> Ints:
    """(N,), for each of the ranked cells the index of the best cell in its cluster."""
    a, b, overlap = overlapping_pairs(cells, iou)
    joins = source[a] != source[b]
    if not class_agnostic:
        joins &= cells.classes[a] == cells.classes[b]
    a, b, overlap = a[joins], b[joins], overlap[joins]

    leader = np.arange(len(cells))
    sources: defaultdict[int, set[int]] = defaultdict(set)
    order = np.lexsort((b, -overlap, a))
    for best, other, its, others in np.stack([a, b, source[a], source[b]], axis=1)[order].tolist():
        seen = sources[best] or {its}
        if leader[best] == best and leader[other] == other and others not in seen:
            leader[other] = best
            sources[best] = seen | {others}
    return leader


def _elect(classes: Ints, votes: Floats, members: Sequence[int]) -> tuple[int, float]:
    """The class with most votes in a cluster, the lowest if several have as many, and its votes."""
    tally: defaultdict[int, float] = defaultdict(float)
    for member in members:
        tally[int(classes[member])] += float(votes[member])
    return max(tally.items(), key=lambda item: (item[1], -item[0]))


def _voted_mask(cells: CellInstances, votes: Floats, members: Sequence[int]) -> tuple[Bools, Ints]:
    """A cluster's mask and its place in the image; ``members`` are ranked."""
    best, needed = members[0], votes[members].sum() / 2
    if votes[best] >= needed:
        return cells.masks[best], cells.origins[best]
    ends = cells.origins[members] + [cells.masks[member].shape[::-1] for member in members]
    origin = cells.origins[members].min(axis=0)
    width, height = ends.max(axis=0) - origin
    seen = np.zeros((height, width))
    for member, (x0, y0), (x1, y1) in zip(members, cells.origins[members] - origin, ends - origin):
        seen[y0:y1, x0:x1] += votes[member] * cells.masks[member]
    mask: Bools = seen >= needed
    # With an IoU below one half, members may overlap the best one in different places.
    return (mask, origin) if mask.any() else (cells.masks[best], cells.origins[best])


def _mean_boxes(boxes: NDArray[np.float32], votes: Floats, leader: Ints) -> NDArray[np.float32]:
    """(N, 4), at the index of each cluster's best cell the mean of the members' boxes, weighted by their votes."""
    pull = np.maximum(votes, 1e-9)  # a score may be 0
    sums = [np.bincount(leader, pull * side, len(leader)) for side in boxes.T.astype(np.float64)]
    means = np.stack(sums, axis=1) / np.maximum(np.bincount(leader, pull, len(leader)), 1e-9)[:, None]
    return np.asarray(means, np.float32)


@dataclass(frozen=True)
class MergeCounts:
    """Numbers of images and results.

    Attributes:
        images: images with at least one result in any file.
        given: results in each file.
        merged: results that were written.
    """

    images: int
    given: tuple[int, ...]
    merged: int


def merge_files(
    paths: Sequence[Path],
    output: Path,
    *,
    weights: Sequence[float] | None = None,
    iou: float = 0.5,
    score_threshold: float = 0.0,
    class_agnostic: bool = False,
) -> MergeCounts:
    """Merges COCO results files, of this or any other tool, image by image with :func:`merge`.

    Args:
        paths: results files with compressed RLE masks, for the same images. An image that a file lacks counts as one
            without a cell, because COCO results do not distinguish it from one that was never predicted.
        output: the file for the merged results, sorted by image id and then by score; written whole and checked, or not
            at all.
        weights: one per file; all 1 if not given.
        iou: masks with a larger IoU than this show one cell.
        score_threshold: cells with a lower score after merging are left out.
        class_agnostic: see :func:`merge`.

    Raises:
        CellSegError: weights do not fit the files, or a value is out of its range; a file cannot be read, has another
            form, or images of other sizes than the others; the output cannot be written.
    """
    weights = [1.0] * len(paths) if weights is None else list(weights)
    if len(weights) != len(paths):
        raise CellSegError(f"weights: {len(weights)} given for {len(paths)} files; give one per file")
    if not all(0 < weight < math.inf for weight in weights):
        raise CellSegError(f"weights: must each be above 0 and finite, not {weights}; leave a file out instead")
    if not 0 <= iou < 1:
        raise CellSegError(f"iou: must be at least 0 and below 1, not {iou}")
    if not 0 <= score_threshold <= 1:
        raise CellSegError(f"score threshold: must be from 0 to 1, not {score_threshold}")
    files = [_read(path) for path in paths]
    sizes = _common_sizes(paths, files)
    classes = 0
    with whole_file(output) as unchecked:
        with ResultsWriter.open(unchecked) as writer:
            for image, size in sorted(sizes.items()):
                passes = [_cells(path, file[image], image, size) for path, file in zip(paths, files)]
                merged = merge(passes, weights=weights, iou=iou, class_agnostic=class_agnostic)
                merged = merged[merged.scores >= score_threshold]
                classes = max(classes, int(merged.classes.max(initial=-1)) + 1)
                writer.append(_results(merged, image))
        check_results(unchecked, sizes, classes)
    return MergeCounts(len(sizes), tuple(sum(map(len, file.values())) for file in files), writer.count)


def _results(cells: CellInstances, image: int) -> list[Result]:
    """COCO results with the cells' boxes, because the mean of several boxes is better than the mask's tight box."""
    sides = np.concatenate([cells.boxes[:, :2], cells.boxes[:, 2:] - cells.boxes[:, :2]], axis=1).astype(np.float64)
    boxes = sides.round(2).tolist()
    return [{**result, "bbox": box} for result, box in zip(to_results(cells, image), boxes)]


def _read(path: Path) -> defaultdict[int, list[Result]]:
    """The results of a file by image id."""
    content = read_json(path)
    if not isinstance(content, list):
        raise CellSegError(
            f"{path}: is no list of COCO results; give test-results.json, as cellseg-d2 predict writes it"
        )
    for number, result in enumerate(content):
        problem = _problem(result)
        if problem:
            raise CellSegError(f"{path}: result {number}, counted from 0, {problem}")
    return by_image(content)


def _problem(result: Any) -> str | None:
    """Why a result cannot be merged, and how to fix it."""
    if not isinstance(result, dict):
        return "is no object; write COCO results"
    missing = [key for key in ("image_id", "category_id", "score", "segmentation") if key not in result]
    if missing:
        return f"has no {missing[0]}; write complete COCO results with masks"
    for key, least in (("image_id", 0), ("category_id", 1)):
        if type(result[key]) is not int or result[key] < least:
            return f"has {key} {result[key]!r}; write a whole number from {least} on"
    score, masks = result["score"], result["segmentation"]
    if type(score) not in (int, float) or not 0 <= score <= 1:
        return f"has score {score!r}; write scores from 0 to 1"
    if "bbox" in result and not _is_box(result["bbox"]):
        return f"has bbox {str(result['bbox'])[:80]}; write [x, y, width, height], or no bbox to use the mask's"
    kind = "polygons" if isinstance(masks, list) else "an RLE that is not compressed"
    if isinstance(masks, list) or (isinstance(masks, dict) and isinstance(masks.get("counts"), list)):
        return f"has {kind}; compress it with pycocotools.mask.frPyObjects"
    if not isinstance(masks, dict) or not isinstance(masks.get("counts"), str) or not _is_size(masks.get("size")):
        return 'has a segmentation that is no {"size": [height, width], "counts": text}; write compressed RLEs'
    return None


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)
    return numbers and all(map(math.isfinite, box)) and min(box[2:]) >= 0


def _is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)


def _common_sizes(paths: Sequence[Path], files: Sequence[dict[int, list[Result]]]) -> dict[int, Size]:
    """(height, width) of each image in any file; all files must agree."""
    found: dict[int, tuple[Size, Path]] = {}
    for path, file in zip(paths, files):
        for image, results in file.items():
            for result in results:
                height, width = result["segmentation"]["size"]
                first, source = found.setdefault(image, ((height, width), path))
                if first != (height, width):
                    raise CellSegError(
                        f"{path}: image {image} has masks of {height} x {width} pixels, and of {first[0]} x {first[1]} "
                        f"in {source}; predict the same images for each file"
                    )
    for path, file in zip(paths, files):
        absent = sorted(set(found) - set(file))
        if absent:
            logger.warning(
                "%s: has nothing for %d of %d images (%d, ...), which lowers the scores there; "
                "right if it saw no cell in them, not if they were left out",
                path,
                len(absent),
                len(found),
                absent[0],
            )
    return {image: size for image, (size, _) in found.items()}


def _cells(path: Path, results: Sequence[Result], image: int, size: Size) -> CellInstances:
    """The results of one file for an image; empty masks, which other tools may write, are left out."""
    try:
        areas = decode_runs([result["segmentation"] for result in results], size).areas(len(results))
        shown = [result for result, area in zip(results, areas.tolist()) if area]
        cells = CellInstances.from_rles(
            [result["segmentation"] for result in shown],
            [result["category_id"] - 1 for result in shown],
            size,
            [result["score"] for result in shown],
        )
    except ValueError as error:
        raise CellSegError(f"{path}: image {image}: {one_line(error)}; write its results again") from error
    boxes = np.array([result["bbox"] for result in shown if "bbox" in result], np.float32).reshape(-1, 4)
    cells.boxes[["bbox" in result for result in shown]] = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    return cells
