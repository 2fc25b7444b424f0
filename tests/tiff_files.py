"""Pixels for TIFF files, and the line that a file is refused with."""

import numpy as np
import pytest

from cellseg_d2.errors import CellSegError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (37, 53), dtype=np.uint8)
RGB = RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8)
OPAQUE = np.dstack([RGB, np.full((37, 53), 255, np.uint8)])
BILEVEL = GREY > 127
LABELS = RNG.integers(0, 200, (37, 53)).astype(np.int32)
IN_A_CORNER = np.full((37, 53), 255, np.uint8)
IN_A_CORNER[:5, :5] = 0


def grey(image):
    return np.repeat(image[..., None], 3, axis=2)


def refusal(read, path, **options):
    """The one line that a file is refused with; it names the file."""
    with pytest.raises(CellSegError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")
