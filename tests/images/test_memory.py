"""Images that do not fit into memory end in one line, in a real process with little memory."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tifffile

from cellseg_d2.images.label_files import read_label_file
from cellseg_d2.images.memory import free_memory

SIDE = 16_500
"""More pixels than Pillow reads by itself (179 million), and a strip of more than ``sources.CHUNK_BYTES``."""

READ = """
import resource, sys
from pathlib import Path
import psutil
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.formats import open_image, read_whole
from cellseg_d2.images.label_files import read_label_file

most = psutil.Process().memory_info().vms + (200 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    {"whole": read_whole, "windows": open_image, "labels": read_label_file}[sys.argv[1]](Path(sys.argv[2]))
except CellSegError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A PNG and a TIFF of one compressed strip, with one cell."""
    folder = tmp_path_factory.mktemp("large")
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[10:20, 30:50] = 7
    cv2.imwrite(str(folder / "large.png"), pixels)
    tifffile.imwrite(folder / "large.tif", pixels, compression="zlib", rowsperstrip=SIDE)
    return folder


@pytest.mark.parametrize("how", ["whole", "windows", "labels"])
@pytest.mark.parametrize("name", ["large.png", "large.tif"])
def test_an_image_larger_than_the_memory_is_refused_with_its_size_and_the_way_out(large, how, name):
    command = [sys.executable, "-c", READ, how, str(large / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    match = re.fullmatch(
        r".*: is 16500 x 16500, which takes ([\d.]+) GB to decode; ([\d.]+) GB are free; cut it .* tiled TIFF, .*\n",
        done.stdout,
    )
    assert match, done.stdout
    assert float(match[1]) * 1e9 >= SIDE * SIDE
    assert float(match[2]) <= 0.21  # 200 MiB


def test_a_label_map_that_is_merely_large_is_read(large):
    labels = read_label_file(large / "large.png")

    assert labels.shape == (SIDE, SIDE)
    assert labels[10, 30] == 7 and np.count_nonzero(labels[:100]) == 200


def test_some_memory_is_free_here():
    assert free_memory() > 2**26
