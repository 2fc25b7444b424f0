import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg_d2.config import get_cfg
from cellseg_d2.data.augmentation import (
    AlbumentationsAugmentation,
    AlbumentationsTransform,
    ZoomedCrop,
    area_scale,
    build_augmentation,
    build_pipeline,
)

TRANSFORMS = ["HORIZONTAL_FLIP", "VERTICAL_FLIP", "QUARTER_TURN", "AFFINE", "BRIGHTNESS_CONTRAST", "HUE_SATURATION"]


def _cfg(**probabilities):
    """A config in which every transform has the probability given, by default 0."""
    cfg = get_cfg("mask_rcnn_lite0_FPN")
    for name in TRANSFORMS:
        cfg.CELLSEG.AUG[f"{name}_PROB"] = probabilities.get(name, 0.0)
    return cfg


def _coded_pair(height, width, layers=1):
    """An image whose red channel says, up to interpolation, which label a pixel has."""
    labels = np.zeros((height, width, layers), np.int32)
    labels[height // 4 : height // 2, width // 4 : width // 2, 0] = 1
    labels[height // 2 :, : width // 3, -1] = 2
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 100 * labels.max(axis=2)
    return image, labels


@pytest.mark.parametrize("name", ["HORIZONTAL_FLIP", "VERTICAL_FLIP", "QUARTER_TURN"])
def test_image_and_labels_are_moved_alike(name):
    image, labels = _coded_pair(40, 60, layers=2)
    transform = AlbumentationsTransform(build_pipeline(_cfg(**{name: 1.0})), seed=3)
    moved_image, moved_labels = transform.apply_both(image, labels)
    np.testing.assert_array_equal(moved_image[..., 0], 100 * moved_labels.max(axis=2))


def test_a_warp_takes_labels_from_their_nearest_neighbours():
    image, labels = _coded_pair(80, 120)
    transform = AlbumentationsTransform(build_pipeline(_cfg(AFFINE=1.0)), seed=5)
    moved_image, moved_labels = transform.apply_both(image, labels)
    assert set(np.unique(moved_labels)) == {0, 1, 2}
    assert moved_labels.dtype == np.int32
    agree = np.abs(moved_image[..., 0].astype(int) - 100 * moved_labels.max(axis=2)) <= 50
    assert agree.mean() > 0.99  # the image is interpolated, so a pixel at an edge may round the other way
    assert not np.array_equal(moved_labels, labels)


def test_large_labels_survive():
    image, labels = _coded_pair(40, 60)
    labels[labels == 2] = 70_001
    _, moved = AlbumentationsTransform(build_pipeline(_cfg(AFFINE=1.0)), seed=5).apply_both(image, labels)
    assert set(np.unique(moved)) == {0, 1, 70_001}


@pytest.mark.parametrize("name", ["BRIGHTNESS_CONTRAST", "HUE_SATURATION"])
def test_colour_changes_leave_labels_alone(name):
    image, labels = _coded_pair(40, 60)
    image += 40
    transform = AlbumentationsTransform(build_pipeline(_cfg(**{name: 1.0})), seed=1)
    moved_image, moved_labels = transform.apply_both(image, labels)
    np.testing.assert_array_equal(moved_labels, labels)
    assert not np.array_equal(moved_image, image)


def test_probability_zero_changes_nothing():
    image, labels = _coded_pair(40, 60)
    sample = T.AugInput(image.copy(), sem_seg=labels.copy())
    AlbumentationsAugmentation(build_pipeline(_cfg()))(sample)
    np.testing.assert_array_equal(sample.image, image)
    np.testing.assert_array_equal(sample.sem_seg, labels)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31 - 1))
def test_a_seed_fixes_the_result_with_labels_or_without(seed):
    image, labels = _coded_pair(32, 48)
    cfg = _cfg(**dict.fromkeys(TRANSFORMS, 0.5))
    both = AlbumentationsTransform(build_pipeline(cfg), seed).apply_both(image, labels)
    again = AlbumentationsTransform(build_pipeline(cfg), seed)
    np.testing.assert_array_equal(again.apply_image(image), both[0])
    np.testing.assert_array_equal(again.apply_segmentation(labels), both[1])


def test_it_composes_with_detectron2s_own_transforms():
    image, labels = _coded_pair(100, 100)
    cfg = _cfg()
    cfg.INPUT.CROP.SIZE = [32, 24]
    sample = T.AugInput(image, sem_seg=labels)
    build_augmentation(cfg)(sample)
    assert sample.image.shape == (32, 24, 3)
    assert sample.sem_seg.shape == (32, 24, 1)


def test_coordinates_are_refused():
    with pytest.raises(TypeError, match="label map"):
        AlbumentationsTransform(build_pipeline(_cfg()), 0).apply_coords(np.zeros((1, 2)))


def _zoomed(image, labels, seed, size=(32, 32), zoom=(0.5, 2.0)):
    np.random.seed(seed)
    sample = T.AugInput(image, sem_seg=labels)
    transform = ZoomedCrop(zoom, size)(sample)
    return sample, transform


@pytest.mark.parametrize("seed", range(12))
def test_a_zoomed_crop_has_the_size_and_moves_image_and_labels_alike(seed):
    image, labels = _coded_pair(90, 110, layers=2)
    sample, transform = _zoomed(image, labels, seed)
    assert all(abs(side - 32) <= 1 for side in sample.image.shape[:2])
    assert sample.sem_seg.shape == (*sample.image.shape[:2], 2)
    assert sample.sem_seg.dtype == np.int32
    agree = np.abs(sample.image[..., 0].astype(int) - 100 * sample.sem_seg.max(axis=2)) <= 50
    assert agree.mean() > 0.95  # the image is interpolated
    assert 0.9 * 0.25 < transform.area_scale < 1.1 * 4


def test_zooms_are_as_often_below_as_above_one():
    image, labels = _coded_pair(90, 110)
    scales = [_zoomed(image, labels, seed)[1].area_scale for seed in range(400)]
    assert np.mean(np.log(scales)) == pytest.approx(0, abs=0.12)
    assert min(scales) < 0.3 and max(scales) > 3.4


def test_an_image_smaller_than_the_crop_is_zoomed_whole():
    image, labels = _coded_pair(20, 24)
    sample, _ = _zoomed(image, labels, 1, size=(256, 256), zoom=(0.5, 0.5))
    assert sample.image.shape[:2] == (10, 12)
    sample, _ = _zoomed(image, labels, 1, size=None, zoom=(2.0, 2.0))
    assert sample.image.shape[:2] == (40, 48)
    np.testing.assert_array_equal(sample.sem_seg[::2, ::2], labels)


def test_the_config_zooms_and_the_area_is_followed():
    cfg = _cfg()
    cfg.CELLSEG.AUG.ZOOM_RANGE = [2.0, 2.0]
    image, labels = _coded_pair(300, 300)
    sample = T.AugInput(image, sem_seg=labels)
    transforms = build_augmentation(cfg)(sample)
    assert sample.image.shape == (256, 256, 3)
    assert area_scale(transforms) == pytest.approx(4)


@pytest.mark.parametrize("name", ["GRAY", "INVERT", "GAMMA", "BLUR", "NOISE"])
def test_intensities_change_and_labels_stay(name):
    image, labels = _coded_pair(40, 60)
    image[..., 1], image[..., 2] = 40, 90
    cfg = _cfg()
    cfg.CELLSEG.AUG[f"{name}_PROB"] = 1.0
    changed, moved = AlbumentationsTransform(build_pipeline(cfg), seed=4).apply_both(image, labels)
    assert changed.dtype == np.uint8 and changed.shape == image.shape
    assert not np.array_equal(changed, image)
    np.testing.assert_array_equal(moved, labels)
    if name == "INVERT":
        np.testing.assert_array_equal(changed, 255 - image)
    if name == "GRAY":
        assert (changed.max(axis=2) == changed.min(axis=2)).all()
