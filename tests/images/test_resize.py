"""Images of any number of channels in another size."""

import cv2
import numpy as np
import pytest

from cellseg_d2.images.resize import resized


@pytest.mark.parametrize("way", [cv2.INTER_LINEAR, cv2.INTER_AREA])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_each_channel_is_resized_as_alone(count, way):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, count), dtype=np.uint8)
    expected = [
        cv2.resize(np.ascontiguousarray(image[..., place]), (30, 21), interpolation=way) for place in range(count)
    ]
    assert np.array_equal(resized(image, (21, 30), way), np.stack(expected, axis=2))
