"""Intensities of channels that are no colours change by themselves, and reproducibly."""

import numpy as np
import pytest

from cellseg_d2.config import get_cfg
from cellseg_d2.data.augmentation import AlbumentationsTransform, build_pipeline
from cellseg_d2.data.channel_intensity import ChannelIntensity

CHANNELS = "['a', 'b', 'c', 'd', 'e']"
STILL = [
    f"CELLSEG.AUG.{name}" for name in ("HORIZONTAL_FLIP_PROB", "VERTICAL_FLIP_PROB", "QUARTER_TURN_PROB", "AFFINE_PROB")
]
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 5), dtype=np.uint8)


def pipeline(**probabilities):
    keys = {**dict.fromkeys(STILL, 0.0), **{f"CELLSEG.AUG.{name}_PROB": value for name, value in probabilities.items()}}
    pairs = [text for key, value in keys.items() for text in (key, str(value))]
    return build_pipeline(get_cfg(None, ["CELLSEG.CHANNELS", CHANNELS, *pairs]))


@pytest.mark.parametrize("kind", ["BRIGHTNESS_CONTRAST", "GAMMA"])
def test_each_channel_is_changed_by_a_table_of_its_own(kind):
    changed = AlbumentationsTransform(pipeline(**{kind: 1.0}), 7).apply_image(IMAGE)
    tables = []
    for place in range(IMAGE.shape[2]):
        old, new = IMAGE[..., place].ravel(), changed[..., place].ravel()
        table = np.full(256, -1)
        table[old] = new
        assert (table[old] == new).all()  # the same intensity becomes the same
        assert (np.diff(table[table >= 0]) >= 0).all()
        tables.append(tuple(table))
    assert len(set(tables)) == len(tables)


def test_what_only_colours_have_does_nothing():
    still = pipeline(HUE_SATURATION=1.0, GRAY=1.0, BRIGHTNESS_CONTRAST=0.0)
    assert np.array_equal(AlbumentationsTransform(still, 7).apply_image(IMAGE), IMAGE)


def test_all_transforms_keep_the_channels_and_are_reproducible():
    all_of_them = pipeline(BRIGHTNESS_CONTRAST=1.0, GAMMA=1.0, INVERT=1.0, BLUR=1.0, NOISE=1.0)
    first, second, other = (AlbumentationsTransform(all_of_them, seed).apply_image(IMAGE) for seed in (3, 3, 4))
    assert first.shape == IMAGE.shape
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_rgb_keeps_its_colour_transforms():
    names = [type(transform).__name__ for transform in build_pipeline(get_cfg()).transforms]
    assert {"HueSaturationValue", "ToGray"} <= set(names)
    assert ChannelIntensity.__name__ not in names
