import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T

from cellseg_d2.cells.rle import column_runs
from cellseg_d2.config import get_cfg
from cellseg_d2.data.copy_paste import CopyPaste
from cellseg_d2.data.mapper import CellDatasetMapper, instances_from_label_maps, to_model_input
from cellseg_d2.data.stream import SEED_KEY


def _cfg(image_format="RGB", **probabilities):
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["INPUT.CROP.ENABLED", "False", "INPUT.FORMAT", image_format])
    for name in [key for key in cfg.CELLSEG.AUG if key.endswith("_PROB")]:
        cfg.CELLSEG.AUG[name] = probabilities.get(name, 0.0)
    return cfg


def _sample(folder, label_map, classes, crowd=()):
    """A dataset dict, with its image on disk, of the cells in a label map."""
    image = np.zeros((*label_map.shape, 3), np.uint8)
    image[..., 0] = 255  # pure red
    cv2.imwrite(str(folder / "image.png"), image[..., ::-1])
    _, cells = column_runs(label_map)
    annotations = [
        {"segmentation": rle, "category_id": classes[number], "iscrowd": int(number in crowd)}
        for number, rle in enumerate(cells.rles())
    ]
    height, width = label_map.shape
    return {"file_name": str(folder / "image.png"), "height": height, "width": width, "annotations": annotations}


@pytest.fixture
def label_map():
    labels = np.zeros((60, 80), np.int32)
    labels[5:25, 10:30] = 1
    labels[25:40, 10:30] = 2  # touches cell 1
    labels[50:52, 70:72] = 3  # 4 pixels, under CELLSEG.MIN_AREA
    return labels


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("is_train", [True, False], ids=["training", "evaluation"])
def test_red_is_red_for_the_model(image_format, is_train, label_map, tmp_path):
    mapper = CellDatasetMapper(_cfg(image_format), is_train=is_train)
    image = mapper(_sample(tmp_path, label_map, [0, 1, 2]))["image"]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 60, 80)
    assert (image[image_format.index("R")] == 255).all()
    assert (image[image_format.index("B")] == 0).all()


def test_an_unknown_channel_order_is_refused():
    with pytest.raises(ValueError, match=r"INPUT.FORMAT"):
        to_model_input(np.zeros((2, 2, 3), np.uint8), "YUV")


def test_ground_truth_is_the_label_map(label_map, tmp_path):
    instances = CellDatasetMapper(_cfg(), is_train=True)(_sample(tmp_path, label_map, [3, 1, 2]))["instances"]
    assert instances.gt_classes.tolist() == [3, 1, -1]  # the third is too small to be learnt
    assert instances.gt_boxes.tensor.tolist() == [[10, 5, 30, 25], [10, 25, 30, 40], [70, 50, 72, 52]]
    for number, mask in enumerate(instances.gt_masks, start=1):
        np.testing.assert_array_equal(mask.numpy(), label_map == number)


def test_crowds_come_last_and_as_no_class(label_map, tmp_path):
    sample = _sample(tmp_path, label_map, [3, 1, 2], crowd=[0])
    instances = CellDatasetMapper(_cfg(), is_train=True)(sample)["instances"]
    assert instances.gt_classes.tolist() == [1, -1, -1]
    assert instances.gt_boxes.tensor[2].tolist() == [10, 5, 30, 25]


def test_a_crowd_of_every_class_comes_once(label_map, tmp_path):
    sample = _sample(tmp_path, label_map, [0, 1, 2], crowd=[0])
    sample["annotations"].append({**sample["annotations"][0], "category_id": 1})
    instances = CellDatasetMapper(_cfg(), is_train=True)(sample)["instances"]
    assert instances.gt_classes.tolist() == [1, -1, -1]


def test_without_ignore_crowd_only_targets_are_left(label_map, tmp_path):
    cfg = _cfg()
    cfg.CELLSEG.IGNORE_CROWD = False
    sample = _sample(tmp_path, label_map, [3, 1, 2], crowd=[0])
    assert CellDatasetMapper(cfg, is_train=True)(sample)["instances"].gt_classes.tolist() == [1]


@pytest.mark.parametrize(("width", "classes"), [(26, [0, -1]), (13, [-1, -1]), (6, [-1])], ids=["most", "least", "out"])
def test_a_cell_of_which_a_crop_leaves_little_is_no_target(width, classes, tmp_path):
    labels = np.zeros((40, 60), np.int32)
    labels[5:25, 8:28] = 1  # of its 20 columns the crop shows 18, 5 or none
    labels[30:38, 0:5] = 2
    cfg = _cfg()
    cfg.CELLSEG.MIN_AREA = 41
    mapper = CellDatasetMapper(cfg, is_train=True)
    mapper.augmentation = T.AugmentationList([T.CropTransform(0, 0, width, 40)])
    assert mapper(_sample(tmp_path, labels, [0, 1]))["instances"].gt_classes.tolist() == classes


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_change_of_scale_makes_no_cell_less_visible(scale, tmp_path):
    labels = np.zeros((60, 60), np.int32)
    labels[20:40, 20:40] = 1
    cfg = _cfg(AFFINE_PROB=1.0)
    cfg.CELLSEG.MIN_VISIBLE, cfg.CELLSEG.AUG.SHIFT_LIMIT, cfg.CELLSEG.AUG.ROTATE_LIMIT_DEGREES = 0.9, 0.0, 0.0
    mapper = CellDatasetMapper(cfg, is_train=True)
    (warp,) = [step for step in mapper.augmentation.augs[0].pipeline.transforms if isinstance(step, A.Affine)]
    warp.scale = {"x": (scale, scale), "y": (scale, scale)}
    instances = mapper(_sample(tmp_path, labels, [2]))["instances"]
    assert instances.gt_classes.tolist() == [2]
    assert instances.gt_masks.area()[0] == pytest.approx(400 * scale**2, rel=0.11)


def _pasting(sample, probability=1.0, **keys):
    """A mapper that pastes one of a sample's own cells."""
    cfg = _cfg()
    cfg.CELLSEG.update(keys)
    copy_paste = CopyPaste([sample], probability, 1)
    return CellDatasetMapper(cfg, is_train=True, copy_paste=copy_paste)


def test_pasted_cells_are_targets_behind_those_that_were_there(label_map, tmp_path):
    sample = {**_sample(tmp_path, label_map, [3, 1, 2]), SEED_KEY: 0}
    instances = _pasting(sample)(sample)["instances"]
    assert instances.gt_classes[:3].tolist() == [3, 1, -1]
    assert len(instances) == 4
    areas = {-1: 4, 1: 300, 3: 400}  # a pasted cell under CELLSEG.MIN_AREA is no target either
    assert instances.gt_masks.area()[3] == areas[instances.gt_classes[3].item()]
    assert (instances.gt_masks.get_bounding_boxes().tensor == instances.gt_boxes.tensor).all()


@pytest.mark.parametrize("ignore_crowd", [True, False])
def test_nothing_is_pasted_onto_a_crowd(ignore_crowd, tmp_path):
    labels = np.zeros((40, 40), np.int32)
    labels[5:15, 5:15] = 1
    (tmp_path / "source").mkdir()
    mapper = _pasting(_sample(tmp_path / "source", labels, [2]), IGNORE_CROWD=ignore_crowd)
    instances = mapper(_sample(tmp_path, np.ones((40, 40), np.int32), [0], crowd=[0]))["instances"]
    assert instances.gt_classes.tolist() == ([-1] if ignore_crowd else [])


def test_probability_zero_is_no_copy_paste(label_map, tmp_path):
    sample = {**_sample(tmp_path, label_map, [3, 1, 2]), SEED_KEY: 5}
    plain, never = CellDatasetMapper(_cfg(), is_train=True)(sample), _pasting(sample, probability=0.0)(sample)
    assert torch.equal(plain["image"], never["image"])
    assert torch.equal(plain["instances"].gt_masks.layers, never["instances"].gt_masks.layers)
    assert torch.equal(plain["instances"].gt_classes, never["instances"].gt_classes)


def test_a_tile_without_cells_gives_empty_ground_truth(tmp_path):
    instances = CellDatasetMapper(_cfg(), is_train=True)(_sample(tmp_path, np.zeros((32, 32), np.int32), []))[
        "instances"
    ]
    assert len(instances) == 0
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_masks.area().shape == (0,)


def test_boxes_and_masks_follow_the_augmentation(label_map, tmp_path):
    mapper = CellDatasetMapper(_cfg(HORIZONTAL_FLIP_PROB=1.0), is_train=True)
    instances = mapper(_sample(tmp_path, label_map, [0, 1, 2]))["instances"]
    assert instances.gt_boxes.tensor[:2].tolist() == [[50, 5, 70, 25], [50, 25, 70, 40]]
    np.testing.assert_array_equal(next(iter(instances.gt_masks)).numpy(), label_map[:, ::-1] == 1)


def test_overlapping_cells_stay_whole_in_layers_of_their_own():
    layers = np.zeros((20, 20, 2), np.int32)
    layers[2:12, 2:12, 0] = 1
    layers[6:16, 6:16, 1] = 2
    instances = instances_from_label_maps(layers, np.array([0, 1]), np.array([0, 1]))
    assert instances.gt_masks.area().tolist() == [100, 100]


def test_the_samples_tiles_load_with_all_their_cells(nuclei):
    mapper = CellDatasetMapper(_cfg(), is_train=True)
    for sample in DatasetCatalog.get("nuclei_train")[:5]:
        instances = mapper(sample)["instances"]
        expected = [-1 if cell["iscrowd"] else cell["category_id"] for cell in sample["annotations"]]
        assert sorted(instances.gt_classes.tolist()) == sorted(expected)
        assert (instances.gt_masks.get_bounding_boxes().tensor == instances.gt_boxes.tensor).all()
