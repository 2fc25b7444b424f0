"""Fixtures that several files of this folder use."""

import pytest
import tifffile


@pytest.fixture
def tiff(tmp_path):
    """Writes one TIFF and gives its path."""

    def write(pixels, **options):
        tifffile.imwrite(tmp_path / "file.tif", pixels, **options)
        return tmp_path / "file.tif"

    return write
