"""What a training sample costs: label maps painted and augmented once, against a list of masks, one a cell."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cellseg_d2  # noqa: F401  (sets NO_ALBUMENTATIONS_UPDATE before albumentations is imported) # isort: skip

import albumentations as A
import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.structures import BitMasks, Instances
from pycocotools import mask as mask_util

from benchmarks.synthetic import dense_cells
from benchmarks.table import TIMING_COLUMNS, Table, number, ratio, timing_cells
from benchmarks.timing import peak_memory, time_in_turn
from cellseg_d2.cells.coco import annotate
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.config import get_cfg
from cellseg_d2.conversion.convert import write_image
from cellseg_d2.data.augmentation import build_pipeline
from cellseg_d2.data.mapper import CellDatasetMapper

TILE = 512
COUNTS = (50, 200, 700)
SEED = 42
CONFIG = "mask_rcnn_R_50_FPN"

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


def report(repeats: int = 15, counts: tuple[int, ...] = COUNTS) -> str:
    """The benchmark's table as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        return benchmark_mapper(Path(folder), repeats, counts).markdown()


def benchmark_mapper(folder: Path, repeats: int, counts: tuple[int, ...]) -> Table:
    """Time and memory of one training sample by its number of cells, in both ways.

    Args:
        folder: for the tiles.
        repeats: timed samples of each.
        counts: numbers of cells per tile.
    """
    torch.set_num_threads(1)  # as in a data loader's worker
    samples = {count: write_tile(folder, count) for count in counts}
    ways = {name: make() for name, make in WAYS.items()}
    works = {f"{way}, {count}": partial(ways[way], samples[count]) for count in counts for way in ways}
    timings = time_in_turn(works, repeats)
    rows = []
    for count in counts:
        for way in ways:
            timing, first = timings[f"{way}, {count}"], timings[f"{way}, {counts[0]}"]
            by_first = ratio(timing.median, first.median)
            by_ours = ratio(timing.median, timings[f"{next(iter(ways))}, {count}"].median)
            memory = peak_memory(map_once, way, samples[count])
            extra = number((memory.peak - memory.before) / 1e6)
            rows.append([f"{way}, {count}", *timing_cells(timing), by_first, by_ours, extra])
    text = (
        f"One {TILE} x {TILE} tile from its PNG and COCO annotations to image, boxes, classes and masks, with the "
        "recipe's augmentations, in one thread. A list of masks: one `mask.decode` a cell, albumentations with "
        "`masks=`, BitMasks. Ratios are of medians. Memory is a fresh process's at its peak, less that of its imports."
    )
    columns = ["way, cells", *TIMING_COLUMNS, "times its first", "times this mapper", "MB"]
    return Table("Mapper", text, columns, rows)


def write_tile(folder: Path, count: int) -> dict[str, Any]:
    """A dataset dict of a drawn tile, as Detectron2's catalog gives it."""
    image, maps = dense_cells(TILE, count, 4, (5.0, 9.0), SEED)
    path = folder / f"{count}.png"
    write_image(path, image)
    cells = annotate([LabelMap((number,), labels) for number, labels in enumerate(maps)], (0, 0, TILE, TILE))
    return {"file_name": str(path), "height": TILE, "width": TILE, "annotations": cells}


def make_label_map_way() -> Mapper:
    """This package's way."""
    mapper: Mapper = CellDatasetMapper(get_cfg(CONFIG), is_train=True)
    return mapper


def make_mask_list_way() -> Mapper:
    """The usual way, with the same transforms."""
    return partial(map_mask_list, build_pipeline(get_cfg(CONFIG)))


WAYS: dict[str, Callable[[], Mapper]] = {"this mapper": make_label_map_way, "a list of masks": make_mask_list_way}


def map_once(way: str, sample: dict[str, Any]) -> dict[str, Any]:
    """One sample in one of :data:`WAYS`."""
    return WAYS[way]()(sample)


def map_mask_list(pipeline: A.Compose, sample: dict[str, Any]) -> dict[str, Any]:
    """What mappers with albumentations do: each cell's mask decoded, augmented and stacked."""
    image = detection_utils.read_image(sample["file_name"], format="RGB")
    masks = [mask_util.decode(cell["segmentation"]) for cell in sample["annotations"]]
    result = pipeline(image=image, masks=masks)
    kept = [place for place, mask in enumerate(result["masks"]) if mask.any()]
    instances = Instances(result["image"].shape[:2])
    instances.gt_masks = BitMasks(torch.from_numpy(np.stack([result["masks"][place] for place in kept])).bool())
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.tensor([sample["annotations"][place]["category_id"] for place in kept])
    image = torch.from_numpy(np.ascontiguousarray(result["image"][..., ::-1].transpose(2, 0, 1)))
    return {"image": image, "instances": instances}
