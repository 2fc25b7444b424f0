"""Two hundred damaged TIFFs: each is read, or refused in one line, within bounds of time and memory.

The files are read in a process of its own, whose memory is limited and which an alarm ends.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawing import discs, noise

COUNT = 200

READ_ALL = """
import resource, signal, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from pathlib import Path
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.formats import image_header, open_image
from cellseg_d2.images.tiff import read_image, read_label_map

def window(path):
    with open_image(path, max_pixels=2**24) as image:
        image.read((0, 0, 1, 1))

readers = [lambda p: read_image(p, max_pixels=2**24), lambda p: read_label_map(p, max_pixels=2**24)]
readers += [image_header, window]
for path in sorted(Path(sys.argv[1]).glob("*.tif")):
    for reader in readers:
        signal.alarm(10)
        try:
            reader(path)
            outcome = "read"
        except CellSegError as error:
            assert "\\n" not in str(error), path
            outcome = "refused"
        signal.alarm(0)
        print(outcome)
"""


def write_originals(folder: Path) -> list[bytes]:
    rng = np.random.default_rng(5)
    image, labels = noise(rng, 40, 50), discs(rng, 40, 50, 8).astype(np.uint16)
    kinds = [
        (image, {"photometric": "rgb", "compression": "lzw", "tile": (16, 16)}),
        (image, {"photometric": "rgb", "compression": "jpeg", "rowsperstrip": 16}),
        (np.moveaxis(image, 2, 0), {"ome": True, "metadata": {"axes": "CYX", "PhysicalSizeX": 0.5}}),
        (labels, {"compression": "zlib", "predictor": True}),
        (labels, {"bigtiff": True, "byteorder": ">"}),
        (labels, {"imagej": True, "metadata": {"axes": "YX"}}),
    ]
    for number, (pixels, options) in enumerate(kinds):
        tifffile.imwrite(folder / f"{number}.tif", pixels, **options)
    return [(folder / f"{number}.tif").read_bytes() for number in range(len(kinds))]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes of the header or the tags changed, or the file cut, or a part of it doubled."""
    changed = bytearray(content)
    kind = rng.integers(4)
    if kind == 0:
        return content[: rng.integers(8, len(content))]
    if kind == 1:
        first, last = sorted(rng.integers(8, len(content), 2).tolist())
        return content[:last] + content[first:]
    limit = len(content) if kind == 2 else min(len(content), 400)
    for place in rng.integers(4, limit, rng.integers(1, 9)).tolist():
        changed[place] = int(rng.choice([0, 1, 255, 127, rng.integers(256)]))
    return bytes(changed)


@pytest.mark.parametrize("seed", [11])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, seed):
    rng = np.random.default_rng(seed)
    (tmp_path / "sound").mkdir()
    (tmp_path / "damaged").mkdir()
    originals = write_originals(tmp_path / "sound")
    for number in range(COUNT):
        content = damaged(originals[number % len(originals)], rng)
        (tmp_path / "damaged" / f"{number:03}.tif").write_bytes(content)
    command = [sys.executable, "-c", READ_ALL, str(tmp_path / "damaged")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = done.stdout.split()
    assert len(outcomes) == 4 * COUNT
    assert min(outcomes.count("read"), outcomes.count("refused")) > COUNT / 4
