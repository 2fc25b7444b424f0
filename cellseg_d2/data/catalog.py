"""Registers every converted dataset with Detectron2, by its folder's name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from cellseg_d2.cells.coco import by_image
from cellseg_d2.cells.coco_input import read_truth
from cellseg_d2.errors import CellSegError

PARTS = {
    "train": "instances_train.json",
    "val": "instances_val.json",
    "val_whole": "instances_val_whole.json",
    "test": "image_info_test.json",
}

FOLD_PARTS = ("train", "val", "val_whole")
"""Of each fold; the first is called ``NAME_fold1_train``."""


def datasets_root() -> Path:
    """``$DETECTRON2_DATASETS``, by default ``./datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def register_all(root: str | Path | None = None) -> list[str]:
    """Registers every dataset under ``root`` (by default :func:`datasets_root`); names that are registered stay.

    Returns:
        The names that are registered from this folder now: ``<folder>_train``, ``<folder>_val``, ...,
        and ``<folder>_fold1_train``, ... where the dataset has folds.

    Raises:
        CellSegError: a ``dataset.json`` cannot be read.
    """
    folder = Path(root) if root is not None else datasets_root()
    names = []
    for description in sorted(folder.glob("*/dataset.json")):
        if not description.parent.name.startswith("."):  # a hidden folder is an unfinished conversion
            names += register(description.parent)
    return names


def register(folder: Path) -> list[str]:
    """Registers the parts of one converted dataset and gives their names."""
    try:
        description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        class_names = list(description["class_names"])
        rule, counts = description["intensity_rule"], description["counts"]
        images = description.get("statistics", {}).get("images", {})  # datasets of the first versions have none
        pixel_size = images.get("pixel_size_um", {}).get("p50", 0.0)
        channels = [
            {"name": str(one["name"]), "mean": float(one["mean"]), "std": float(one["std"])}
            for one in description.get("channels", ())
        ]
        folds = [fold["counts"] for fold in description.get("folds", [])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CellSegError(f"{folder / 'dataset.json'}: is not what `convert` writes; convert again") from error
    files = {part: (file, counts.get(part, {})) for part, file in PARTS.items()}
    for number, of_fold in enumerate(folds, start=1):
        for part in FOLD_PARTS:
            files[f"fold{number}_{part}"] = (f"instances_fold{number}_{part}.json", of_fold.get(part, {}))
    names = []
    for part, (file, in_part) in files.items():
        json_file, name = folder / "annotations" / file, f"{folder.name}_{part}"
        if not json_file.is_file():
            continue
        names.append(name)
        if name in DatasetCatalog.list():
            continue
        DatasetCatalog.register(name, lambda file=json_file, name=name: _load(file, folder, name))
        MetadataCatalog.get(name).set(
            json_file=str(json_file),
            image_root=str(folder),
            evaluator_type="coco",
            thing_classes=class_names,
            thing_dataset_id_to_contiguous_id={number: number - 1 for number in range(1, len(class_names) + 1)},
            intensity_rule=rule,
            pixel_size_um=pixel_size,
            channels=channels,
            cell_count=sum(in_part.get("tile_instances", {}).values()) or None,
            image_count=in_part.get("tiles"),
            most_cells=in_part.get("most_instances_in_a_tile"),
        )
    return names


def _load(json_file: Path, folder: Path, name: str) -> list[dict[str, Any]]:
    """Detectron2's dicts of one part, as its ``load_coco_json`` makes them, of annotations that were checked.

    Raises:
        CellSegError: the file cannot be read, is damaged, or has other classes than its ``dataset.json``.
    """
    truth = read_truth(json_file)
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    classes = {category["id"]: number for number, category in enumerate(categories)}
    if classes != MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id:
        raise CellSegError(f"{json_file}: has other categories than the classes in dataset.json; convert again")
    cells = by_image(truth.get("annotations", ()))
    return [
        {
            "file_name": str(folder / image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [
                {
                    "iscrowd": cell["iscrowd"],
                    "bbox": cell["bbox"],
                    "category_id": classes[cell["category_id"]],
                    "segmentation": cell["segmentation"],
                    "bbox_mode": BoxMode.XYWH_ABS,
                }
                for cell in cells[image["id"]]
            ],
        }
        for image in sorted(truth["images"], key=lambda image: image["id"])
    ]


def check_registered(name: str) -> None:
    """Raises CellSegError where a dataset is not registered; the message lists those that are."""
    known = [known for known in DatasetCatalog.list() if MetadataCatalog.get(known).get("intensity_rule") is not None]
    if name not in DatasetCatalog.list():
        there = f"registered are {', '.join(known)}" if known else "none is; convert one with `cellseg-d2 convert`"
        variable = os.environ.get("DETECTRON2_DATASETS")
        stated = "is not set" if variable is None else f"is {variable}"
        raise CellSegError(
            f"dataset {name!r} is not registered under {datasets_root()}: {there} "
            f"(DETECTRON2_DATASETS, the folder of converted datasets, {stated})"
        )
