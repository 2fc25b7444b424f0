"""Fixtures that several files of this folder use."""

from pathlib import Path

import numpy as np
import pytest
from drawing import discs, noise, write_sample


@pytest.fixture
def small_root(tmp_path) -> Path:
    """Two small samples."""
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        write_sample(tmp_path / "input", name, noise(rng, 30, 40), {1: discs(rng, 30, 40, 8)}, photometric="rgb")
    return tmp_path / "input"
