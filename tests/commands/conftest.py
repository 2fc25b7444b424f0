"""Fixtures that several files of this folder use."""

import numpy as np
import pytest
from drawing import discs, noise, read_folder, write_sample, write_test_images


@pytest.fixture
def small_root(tmp_path):
    """Three small samples of two classes, and a test image."""
    rng = np.random.default_rng(1)
    for name in ("a", "b", "c"):
        maps = {1: discs(rng, 40, 50, 8), 2: discs(rng, 40, 50, 2)}
        write_sample(tmp_path / "input", name, noise(rng, 40, 50), maps, photometric="rgb")
    write_test_images(tmp_path / "input", {"t.tif": noise(rng, 20, 30)}, None)
    return tmp_path / "input"


@pytest.fixture
def convert_tifs(run_tool, small_root, tmp_path):
    """Converts the small samples to ``out`` with further options, in one process."""

    def run(*options):
        return run_tool("convert_tifs", "--input", small_root, "--output", tmp_path / "out", "--workers", 1, *options)

    return run


@pytest.fixture(scope="session")
def reference(run_tool, sample_root, tmp_path_factory):
    """The sample as an undisturbed run converts it."""
    output = tmp_path_factory.mktemp("reference") / "cells"
    assert run_tool("convert_tifs", "--input", sample_root, "--output", output, "--workers", 1).returncode == 0
    return read_folder(output)
