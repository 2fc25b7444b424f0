"""An existing COCO dataset of whole images, converted by the same rules as label TIFFs."""

import json

import cv2
import numpy as np
import pytest
from drawing import decode_annotations, discs, noise, overlapping_masks, pycocotools_rle, written
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from cellseg_d2.data.coco_source import find_coco_samples, to_rle
from cellseg_d2.data.convert import convert
from cellseg_d2.data.options import ConvertOptions
from cellseg_d2.errors import CellSegError


def write_coco(root, annotations, size=(40, 60), name="a.png", categories=((7, "round"), (3, "long"))):
    """A dataset of one image, on disk."""
    root.mkdir(parents=True, exist_ok=True)
    image = noise(np.random.default_rng(0), *size)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / name), image[..., ::-1])
    content = {
        "images": [{"id": 5, "file_name": name, "height": size[0], "width": size[1]}],
        "annotations": [{"image_id": 5, **annotation} for annotation in annotations],
        "categories": [{"id": number, "name": label} for number, label in categories],
    }
    (root / "gt.json").write_text(json.dumps(content))
    return root / "gt.json", image


def masks_of(annotations):
    return sorted(mask_util.decode(annotation["segmentation"]).tobytes() for annotation in annotations)


@written
@given(masks=overlapping_masks(min_count=1), numbers=st.lists(st.sampled_from([3, 7]), min_size=6, max_size=6))
def test_every_mask_comes_back_whole_even_where_cells_of_a_class_overlap(masks, numbers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    annotations = [
        {"id": place, "category_id": number, "segmentation": pycocotools_rle(mask), "iscrowd": 0}
        for place, (mask, number) in enumerate(zip(masks, numbers), start=1)
    ]
    truth, image = write_coco(folder / "in", annotations, masks[0].shape)
    options = ConvertOptions(min_area=0, val_fraction=0, tile_size=max(masks[0].shape))
    summary = convert(folder / "in", folder / "out", options, from_coco=truth)
    assert summary["class_names"] == ["long", "round"]  # by category id
    tiles = json.loads((folder / "out" / "annotations" / "instances_train.json").read_text())
    for number, category in ((1, 3), (2, 7)):
        expected = [mask.astype(np.uint8) for mask, own in zip(masks, numbers) if own == category]
        found = [cell for cell in tiles["annotations"] if cell["category_id"] == number]
        assert masks_of(found) == sorted(np.asfortranarray(mask).tobytes() for mask in expected)
        assert sorted(cell["label"] for cell in found) == [
            place for place, (_, own) in enumerate(zip(masks, numbers), start=1) if own == category
        ]
    (tile,) = tiles["images"]
    assert np.array_equal(cv2.imread(str(folder / "out" / tile["file_name"]))[..., ::-1], image)


def test_tiles_are_cut_by_the_same_rules(tmp_path):
    labels = discs(np.random.default_rng(3), 50, 70, 15)
    annotations = [
        {"id": int(cell), "category_id": 3, "segmentation": pycocotools_rle(labels == cell)}
        for cell in np.unique(labels[labels > 0])
    ]
    truth, _ = write_coco(tmp_path / "in", annotations, labels.shape)
    options = ConvertOptions(min_area=0, min_visible=0.5, val_fraction=0, tile_size=32)
    convert(tmp_path / "in", tmp_path / "out", options, from_coco=truth)
    tiles = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    for tile in tiles["images"]:
        x0, y0, x1, y1 = tile["window"]
        own = [cell for cell in tiles["annotations"] if cell["image_id"] == tile["id"]]
        decoded = decode_annotations(own, (y1 - y0, x1 - x0))
        assert np.array_equal(decoded.get(1, 0 * labels[y0:y1, x0:x1]), labels[y0:y1, x0:x1])
        for cell in own:
            assert cell["iscrowd"] == (cell["area"] < 0.5 * np.count_nonzero(labels == cell["label"]))


def test_crowds_stay_crowds_and_are_no_cells(tmp_path):
    crowd = {"id": 1, "category_id": 3, "segmentation": [[2, 2, 30, 2, 30, 20, 2, 20]], "iscrowd": 1}
    cell = {"id": 2, "category_id": 3, "segmentation": [[5, 25, 15, 25, 15, 35, 5, 35]], "iscrowd": 0}
    truth, _ = write_coco(tmp_path / "in", [crowd, cell])
    summary = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0), from_coco=truth)
    tiles = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert sorted((own["label"], own["iscrowd"]) for own in tiles["annotations"]) == [(1, 1), (2, 0)]
    assert summary["counts"]["train"]["cells"] == {"long": 1, "round": 0}


@pytest.mark.parametrize("form", ["polygons", "counts", "text", "bytes"])
def test_all_of_cocos_segmentations_are_read(form):
    polygons = [[2.0, 2.0, 12.0, 2.0, 12.0, 9.0, 2.0, 9.0], [20.0, 4.0, 25.0, 4.0, 25.0, 8.0, 20.0, 8.0]]
    rle = mask_util.merge(mask_util.frPyObjects(polygons, 16, 30))
    mask = mask_util.decode(rle)
    runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=0, append=0)), prepend=0, append=0)
    counts = [*runs[:-1].tolist(), mask.size - int(runs[:-1].sum())]
    segmentation = {
        "polygons": polygons,
        "counts": {"size": [16, 30], "counts": counts},
        "text": {"size": [16, 30], "counts": rle["counts"].decode("ascii")},
        "bytes": rle,
    }[form]
    assert np.array_equal(mask_util.decode(to_rle(segmentation, (16, 30))), mask)


def test_names_in_folders_stay_apart(tmp_path):
    truth, _ = write_coco(tmp_path, [], name="patient1/a.png")
    (sample,), _ = find_coco_samples(truth, tmp_path)
    assert sample.id == "patient1_a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("categories"), "is no COCO dataset"),
        (lambda content: content["annotations"][0].update(category_id=99), "category 99"),
        (lambda content: content["annotations"][0].update(image_id=6), "annotations of image 6"),
        (lambda content: content["images"].append({**content["images"][0], "id": 6}), "two images of the name a"),
        (lambda content: content.update(images=[], annotations=[]), "lists no images"),
        (lambda content: content["images"][0].update(height=41), "is 40 x 60, the COCO file says"),
        (lambda content: content["images"][0].update(file_name="b.png"), "b.png: there is no such file"),
        (
            lambda content: content["annotations"][0].update(segmentation={"size": [2, 2], "counts": "04"}),
            "segmentation",
        ),
    ],
    ids=["form", "category", "image", "twice", "empty", "size", "file", "mask"],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    truth, _ = write_coco(
        tmp_path / "in", [{"id": 1, "category_id": 3, "segmentation": [[5, 25, 15, 25, 15, 35, 5, 35]]}]
    )
    content = json.loads(truth.read_text())
    change(content)
    truth.write_text(json.dumps(content))
    with pytest.raises(CellSegError) as caught:
        convert(tmp_path / "in", tmp_path / "out", ConvertOptions(), from_coco=truth)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()
