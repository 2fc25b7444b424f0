"""A COCO dataset of cells, read back with pycocotools."""

import json

import numpy as np
from drawing import overlapping_masks, pycocotools_rle, written
from hypothesis import given
from pycocotools.coco import COCO

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.coco_dataset import DATASET_FILE, DatasetWriter, to_annotations

NAMES = ["Épithélial", "Lymphocyte", "Macrophage"]


def write(folder, *images):
    """Writes images of cells, with ids 7, 8, ..."""
    with DatasetWriter.open(folder, NAMES) as writer:
        for number, cells in enumerate(images, start=7):
            height, width = cells.image_size
            entry = {"id": number, "file_name": f"plate/{number}.tif", "height": height, "width": width}
            writer.append(entry, to_annotations(cells))
    return folder / DATASET_FILE


@written
@given(overlapping_masks(min_count=1))
def test_pycocotools_draws_each_mask_again(tmp_path_factory, masks):
    size, classes = masks[0].shape, np.arange(len(masks)) % 3
    scores = np.linspace(0.25, 1, len(masks))
    cells = CellInstances.from_rles([pycocotools_rle(mask) for mask in masks], classes, size, scores)
    coco = COCO(write(tmp_path_factory.mktemp("coco"), cells, cells[::-1]))
    assert coco.getImgIds() == [7, 8]
    first = coco.loadAnns(coco.getAnnIds(imgIds=7))
    assert [annotation["id"] for annotation in first] == list(range(1, len(masks) + 1))
    assert [annotation["category_id"] for annotation in first] == (classes + 1).tolist()
    assert [annotation["score"] for annotation in first] == scores.astype(np.float32).astype(float).round(6).tolist()
    for annotation, mask in zip(first, masks):
        assert np.array_equal(coco.annToMask(annotation), mask)
        x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        assert annotation["bbox"] == [x[0], y[0], x[-1] + 1 - x[0], y[-1] + 1 - y[0]]
        assert annotation["area"] == mask.sum()
    second = coco.loadAnns(coco.getAnnIds(imgIds=8))
    assert [annotation["id"] for annotation in second] == list(range(len(masks) + 1, 2 * len(masks) + 1))


def test_a_hole_is_reached_by_a_slit_and_parts_are_polygons(tmp_path):
    mask = np.ones((5, 11), bool)
    mask[1, 1], mask[3, 3], mask[:, 6] = False, False, False
    cells = CellInstances.from_rles([pycocotools_rle(mask)], [0], mask.shape)
    coco = COCO(write(tmp_path, cells))
    (annotation,) = coco.loadAnns(coco.getAnnIds())
    assert np.array_equal(coco.annToMask(annotation), mask)
    first, second = annotation["segmentation"]
    assert len(second) == 2 * 4
    assert len(first) == 2 * (4 + 2 * (4 + 2))  # a slit passes a hole's first corner and an outer one again
    assert annotation["iscrowd"] == 0


def test_images_without_cells_and_categories_are_listed(tmp_path):
    path = write(tmp_path, CellInstances.empty((4, 5)))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["annotations"] == []
    assert content["images"] == [{"id": 7, "file_name": "plate/7.tif", "height": 4, "width": 5}]
    assert content["categories"] == [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
