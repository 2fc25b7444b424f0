"""The work folder's images: the same pixels, label maps and split for all sides."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from benchmarks.accuracy.job import PATCH
from benchmarks.model_card import TRUTH_FILE
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.cut import open_input, read_sample
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import read_json, write_json
from cellseg_d2.images.listing import TEST_FOLDER, find_test_images

DATASETS, DATASET = "datasets", "accuracy"
"""The folder of converted datasets in the work folder, and this one's name."""

CLASS_NAME = "cell"
OPTIONS = ConvertOptions(merge_classes=CLASS_NAME)


def digest(root: Path) -> str:
    """What the input's files are known by: their names and sizes, and the ground truth."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    lines = [f"{path.relative_to(root).as_posix()} {path.stat().st_size}" for path in files]
    truth = root / TRUTH_FILE
    if not truth.is_file():
        raise CellSegError(f"{truth}: there is no such file; put the ground truth of the test images there")
    return hashlib.sha256("\n".join(lines).encode() + truth.read_bytes()).hexdigest()


def prepare(root: Path, work: Path) -> str:
    """Writes ``datasets/accuracy/`` for this package, and the same images as arrays into ``data/`` for the others.

    What is there of the same input is kept. A cell that another class's cell overlaps loses these pixels in the arrays.

    Args:
        root: the input layout, with test images and their ground truth.
        work: the work folder.

    Returns:
        What the input is known by, see :func:`digest`.

    Raises:
        CellSegError: a file is missing, cannot be read, or is an image that is too small.
    """
    known, done = digest(root), work / "data" / "done.json"
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / "data.lock"):  # sides may be run by two commands at once
        if not done.is_file() or read_json(done) != known:
            shutil.rmtree(work / "data", ignore_errors=True)
            write_parts(root, work)
            write_json(done, known)
    return known


def write_parts(root: Path, work: Path) -> None:
    """What :func:`prepare` writes."""
    tests = find_test_images(root)
    if not tests:
        raise CellSegError(f"{root / TEST_FOLDER}: there is no such folder; put the test images there")
    parts = convert(root, work / DATASETS / DATASET, OPTIONS, overwrite=True)["images"]
    if not parts["val"]:
        raise CellSegError(f"{root}: has one image alone; give several, so that some are for validation")
    part_of = {name: part for part, names in parts.items() for name in names}
    given = open_input(root, OPTIONS)
    for sample in given.images:
        read = read_sample(sample, OPTIONS, len(given.class_names))
        pixels, layers = read.image, read.label_maps
        if min(pixels.shape[:2]) < PATCH:
            raise CellSegError(f"{sample.image}: has a side under {PATCH} px, which trainings need; leave it out")
        write(work / "data" / part_of[sample.id] / f"{sample.id}.npz", pixels, joined(layers, pixels.shape[:2]))
    for test in tests:
        pixels = test.read(OPTIONS.intensity_rule)
        write(work / "data" / "test" / f"{test.name}.npz", pixels, np.zeros(pixels.shape[:2], np.int32))


def joined(layers: list[LabelMap], size: tuple[int, ...]) -> NDArray[np.int32]:
    """One (H, W) int32 label map of all cells, numbered from 1; regions to ignore are background."""
    labels = np.zeros(size, np.int32)
    count = 0
    for layer in layers:
        if not layer.crowd:
            ids, places = np.unique(layer.labels, return_inverse=True)
            numbers = np.where(ids > 0, count + np.arange(len(ids)) + 1, 0)[places].reshape(size)
            labels = np.where(numbers > 0, numbers, labels).astype(np.int32)
            count += len(ids)
    return labels


def write(path: Path, pixels: NDArray[np.uint8], labels: NDArray[np.int32]) -> None:
    """One image for :class:`benchmarks.accuracy.job.LabelledImage`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, pixels=pixels, labels=labels)
