"""Several sets of results become one: of two checkpoints, or of two passes over the same images, whole and in tiles.

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

from cellseg_d2.cells.arrays import Bools, Floats, Ints
from cellseg_d2.cells.coco import Result, by_image, to_results, to_xywh, to_xyxy
from cellseg_d2.cells.coco_ids import Ids
from cellseg_d2.cells.coco_input import ResultFiles, read_results
from cellseg_d2.cells.image_names import write_image_ids
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.overlaps import overlapping_pairs
from cellseg_d2.cells.rle import decode_runs
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.coco_results import ResultsWriter, check_results
from cellseg_d2.files import whole_file

logger = logging.getLogger(__name__)

Size = tuple[int, int]


def merge(
    passes: Sequence[CellInstances],
    *,
    weights: Sequence[float] | None = None,
    iou: float = 0.5,
    class_agnostic: bool = False,
) -> CellInstances:
    """Joins the instances of several passes over one image that show the same cell.

    The best-scored instance that belongs to no cluster yet takes from each other pass the one instance that it overlaps
    most; then the next best does, and so on. Instances of one pass never join: the pass itself decides which of them to
    keep. The order of the passes does not matter, only their weights do.

    Args:
        passes: the instances that each pass found.
        weights: the weight of each pass, above 0; all 1 if not given.
        iou: two masks with an IoU above this show one cell, in [0, 1).
        class_agnostic: instances of different classes join too, and the class with most votes wins; otherwise they are
            different guesses that all stay, which average precision rewards.

    Returns:
        One instance per cluster, the best-scored first. An instance's vote is its score times its pass's weight.
        A cluster's score is the sum of the votes for its class divided by the sum of all weights, so a pass that does
        not show it counts as 0. Its box is the mean of its members' boxes, weighted by their votes. Its mask is that of
        the best member if that has at least half of the votes, as always with two members; otherwise it is the pixels
        that at least half of the votes show.

    Raises:
        ValueError: the passes are of images of different sizes, or none is given.
    """
    weights = [1.0] * len(passes) if weights is None else weights
    cells = CellInstances.concatenate(passes)
    source = np.repeat(np.arange(len(passes)), [len(found) for found in passes])
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
    """Numbers of the cells, the best vote first; only cells that are alike in everything stay in the order given."""
    keys = zip((-votes).tolist(), (-weight).tolist(), cells.classes.tolist(), cells.mask_boxes.tolist(), cells.masks)
    ranked = sorted((*key, mask.tobytes(), number) for number, (*key, mask) in enumerate(keys))
    return np.array([number for *_, number in ranked], np.int64)


def _leaders(cells: CellInstances, source: Ints, iou: float, class_agnostic: bool) -> Ints:
    """(N,), the number of the best cell in each cell's cluster; the cells come ranked."""
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
    """The class with most votes in a cluster, the lower class if two have as many, and its votes."""
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
    """(N, 4), at each leader's number the mean of its members' boxes, weighted by their votes."""
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
        merged: results written.
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
        paths: results files with masks, of the same images. COCO results do not tell an image without a
            cell from one that was never predicted: an image that a file lacks counts as one without a cell.
        output: the merged results, by image id and then by score; it appears whole and checked, or not at all. A file
            beside it names the images where all files name theirs; then images are the same by name, not by id.
        weights: one per file; all 1 if not given.
        iou: two masks with an IoU above this show one cell.
        score_threshold: cells that score less after merging are left out.
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
    given = read_results(paths)
    files = [_checked(path, results) for path, results in zip(paths, given.files)]
    sizes = _common_sizes(paths, files, given.image_ids)
    categories: set[Any] = set()
    with whole_file(output) as unchecked:
        with ResultsWriter.open(unchecked) as writer:
            for image, size in sorted(sizes.items()):
                passes = [_cells(file[image], size) for file in files]
                merged = merge(passes, weights=weights, iou=iou, class_agnostic=class_agnostic)
                merged = merged[merged.scores >= score_threshold]
                # the mean of several boxes is closer to the truth than the mask's tight one
                found = to_results(merged, image, to_xywh(merged.boxes).astype(np.float64).round(2))
                results = [_renamed(result, given) for result in found]
                categories |= {result["category_id"] for result in results}
                writer.append(results)
        check_results(unchecked, {given.image_ids.original(image): size for image, size in sizes.items()}, categories)
    write_image_ids(output, given.images)
    return MergeCounts(len(sizes), tuple(sum(map(len, file.values())) for file in files), writer.count)


def _renamed(result: Result, given: ResultFiles) -> Result:
    """A result with the ids that the files have."""
    image, category = result["image_id"], result["category_id"]
    return {
        **result,
        "image_id": given.image_ids.original(image),
        "category_id": given.category_ids.original(category),
    }


def _checked(path: Path, results: Sequence[Result]) -> defaultdict[int, list[Result]]:
    """The results of a file by image id.

    Raises:
        CellSegError: one has no mask, or a score out of its range.
    """
    for number, result in enumerate(results):
        if "segmentation" not in result:
            raise CellSegError(f"{path}: has results without masks; write complete COCO results with masks")
        if not 0 <= result["score"] <= 1:
            score = result["score"]
            raise CellSegError(
                f"{path}: result {number}, counted from 0, has score {score!r}; write scores from 0 to 1"
            )
    return by_image(results)


def _common_sizes(paths: Sequence[Path], files: Sequence[dict[int, list[Result]]], ids: Ids) -> dict[int, Size]:
    """(height, width) of each image of any file, on which all agree; warns of what a file lacks."""
    found = {}
    for file in files:
        for image, results in file.items():
            height, width = results[0]["segmentation"]["size"]
            found[image] = (height, width)
    for path, file in zip(paths, files):
        absent = sorted(set(found) - set(file))
        if absent:
            logger.warning(
                "%s: has nothing for %d of %d images (%s, ...), which lowers the scores there; "
                "right if it saw no cell in them, not if they were left out",
                path,
                len(absent),
                len(found),
                ids.original(absent[0]),
            )
    return found


def _cells(results: Sequence[Result], size: Size) -> CellInstances:
    """One file's cells of an image; masks without a pixel, which other tools may write, are left out."""
    runs = decode_runs([result["segmentation"] for result in results], size)
    there = np.flatnonzero(runs.areas)
    shown = [results[number] for number in there.tolist()]
    cells = CellInstances.from_runs(
        runs.pick(there), [result["category_id"] - 1 for result in shown], [result["score"] for result in shown]
    )
    cells.boxes[:] = to_xyxy(np.array([result["bbox"] for result in shown], np.float32).reshape(-1, 4))
    return cells
