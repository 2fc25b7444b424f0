"""The input layout: ``ROOT/train/<id>/image.tif`` beside ``class<k>.tif``, and test images with their ids.

A sample may also have an ``ignore.tif``: a label map of regions, such as a pathologist's "ambiguous", in which no class
is rewarded or punished.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.data.coco_json import read_json
from cellseg_d2.data.labels import LabelLayer
from cellseg_d2.data.tiff import MAX_PIXELS, read_image, read_label_map
from cellseg_d2.errors import CellSegError

TEST_FOLDER = "test_release"
TEST_IDS = "test_image_name_to_ids.json"
_OTHER_FILE = re.compile(r"(image|ignore)\.tiff?", re.IGNORECASE)
_CLASS_FILE = re.compile(r"class([1-9]\d*)\.tiff?", re.IGNORECASE)


class Source(Protocol):
    """One labelled image, wherever it comes from."""

    @property
    def id(self) -> str:
        """Names the image among all of a dataset."""

    @property
    def image(self) -> Path:
        """The image's file."""

    def read(self, rule: str, max_pixels: int, class_count: int) -> tuple[NDArray[np.uint8], list[LabelLayer]]:
        """The image, (H, W, 3) uint8 RGB, and its cells."""


@dataclass(frozen=True)
class Sample:
    """One labelled image on disk: a label file for each class that it has cells of, by class number 1, 2, ..."""

    id: str
    image: Path
    labels: dict[int, Path]
    ignore: Path | None = None

    def read(self, rule: str, max_pixels: int, class_count: int) -> tuple[NDArray[np.uint8], list[LabelLayer]]:
        """The image, (H, W, 3) uint8 RGB, and one layer a label file.

        Raises:
            CellSegError: a file cannot be read, or a label map is not of the image's size.
        """
        image = read_image(self.image, rule, max_pixels)
        files = [((number,), path) for number, path in sorted(self.labels.items())]
        layers = [LabelLayer(numbers, self._read_labels(path, image, max_pixels)) for numbers, path in files]
        if self.ignore is not None:
            every_class = tuple(range(1, class_count + 1))
            layers.append(LabelLayer(every_class, self._read_labels(self.ignore, image, max_pixels), crowd=True))
        return image, layers

    def _read_labels(self, path: Path, image: NDArray[np.uint8], max_pixels: int) -> NDArray[np.int32]:
        labels = read_label_map(path, max_pixels)
        if labels.shape != image.shape[:2]:
            raise CellSegError(
                f"{path}: is {_size(labels.shape)}, its image.tif {_size(image.shape)}; they must be of one size"
            )
        return labels


@dataclass(frozen=True)
class TestImage:
    """One unlabelled image and the id that its predictions are handed in under.

    Attributes:
        id: the image id.
        path: the TIFF.
        size: (height, width) that the id file states; None where it states none.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    id: int
    path: Path
    size: tuple[int, int] | None = None

    def read(self, rule: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """The image, (H, W, 3) uint8 RGB.

        Raises:
            CellSegError: the file cannot be read, or is not of the size that the id file states.
        """
        image = read_image(self.path, rule, max_pixels)
        if self.size is not None and image.shape[:2] != self.size:
            raise CellSegError(f"{self.path}: is {_size(image.shape)}, the id file says {_size(self.size)}; correct it")
        return image


def find_samples(root: Path) -> tuple[list[Sample], list[Path]]:
    """The labelled images under ``root/train``, sorted by id, and files there that belong to no sample.

    Raises:
        CellSegError: there is no such folder, no sample in it, or a sample with two files for its image or one class.
    """
    folder = root / "train"
    if not folder.is_dir():
        raise CellSegError(f"{folder}: there is no such folder; put each image in {folder}/<id>/image.tif")
    samples, unknown = [], []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):  # of an editor or a file manager
            continue
        if not entry.is_dir():
            unknown.append(entry)
            continue
        labels: dict[int, Path] = {}
        others: dict[str, Path] = {}
        for file in sorted(entry.iterdir()):
            if match := _CLASS_FILE.fullmatch(file.name):
                first = labels.setdefault(int(match[1]), file)
            elif match := _OTHER_FILE.fullmatch(file.name):
                first = others.setdefault(match[1].lower(), file)
            else:
                unknown.append(file)
                continue
            if first != file:
                raise CellSegError(f"{file}: is there beside {first.name}; keep one of the two")
        image = others.get("image", entry / "image.tif")  # its absence is reported when the sample is read
        samples.append(Sample(entry.name, image, labels, others.get("ignore")))
    if not samples:
        raise CellSegError(f"{folder}: holds no samples; put each image in {folder}/<id>/image.tif")
    return samples, unknown


def find_test_images(root: Path) -> list[TestImage]:
    """The test images under ``root``, by their ids; none where there is no test folder.

    Without an id file, the sorted files are numbered from 1.
    """
    folder, ids = root / TEST_FOLDER, root / TEST_IDS
    if not folder.is_dir():
        return []
    return list_images(folder, ids if ids.is_file() else None)


def list_images(source: Path, ids: Path | None) -> list[TestImage]:
    """The TIFFs of a folder (or one TIFF) with their image ids.

    Args:
        source: a folder or a file.
        ids: a JSON file ``[{"file_name", "id", "height", "width"}, ...]``; without it the sorted files are numbered
            from 1.

    Raises:
        CellSegError: nothing is found, or the id file and the folder do not match.
    """
    if source.is_file():
        files = [source]
    elif source.is_dir():
        files = sorted(path for path in source.iterdir() if path.suffix.lower() in (".tif", ".tiff") and path.is_file())
    else:
        raise CellSegError(f"{source}: there is no such file or folder")
    if not files:
        raise CellSegError(f"{source}: holds no .tif or .tiff file")
    by_stem: dict[str, Path] = {}
    for path in files:
        if (first := by_stem.setdefault(path.stem, path)) != path:
            raise CellSegError(f"{path}: has the name of {first.name} but for the suffix; rename one of the two")
    if ids is None:
        return [TestImage(number, path) for number, path in enumerate(files, start=1)]
    entries = read_image_ids(ids)
    by_name = {path.name: path for path in files}
    names = [name for name, _, _ in entries]
    missing = sorted(set(names) - set(by_name))
    unnamed = sorted(set(by_name) - set(names))
    if missing:
        raise CellSegError(f"{ids}: names {missing[0]!r}, which is not in {source} ({len(missing)} such)")
    if unnamed:
        raise CellSegError(f"{ids}: has no id for {unnamed[0]!r} of {source} ({len(unnamed)} such); add it")
    return [TestImage(number, by_name[name], size) for name, number, size in entries]


def read_image_ids(path: Path) -> list[tuple[str, int, tuple[int, int] | None]]:
    """File name, image id and (height, width) of each entry, in the file's order; a size may be left out.

    Raises:
        CellSegError: no such file, not JSON, of another form, a name or id twice, or a name that is a path.
    """
    try:
        content = read_json(path)
        entries = [(entry["file_name"], entry["id"], entry.get("height"), entry.get("width")) for entry in content]
    except (TypeError, KeyError, AttributeError) as error:
        raise CellSegError(f'{path}: is not a JSON list of {{"file_name": ..., "id": ...}} entries') from error
    for name, number, height, width in entries:
        if not isinstance(name, str) or not isinstance(number, int) or Path(name).name != name:
            raise CellSegError(f"{path}: entry {name!r}: {number!r} is not a plain file name with a whole-number id")
        if not all(side is None or (isinstance(side, int) and side > 0) for side in (height, width)):
            raise CellSegError(f"{path}: {name!r} has the height {height!r} and width {width!r}; write whole numbers")
    names, numbers = {name for name, *_ in entries}, {number for _, number, *_ in entries}
    if not len(names) == len(numbers) == len(entries):
        raise CellSegError(f"{path}: has a file name or an id twice")
    return [(name, number, (height, width) if height and width else None) for name, number, height, width in entries]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"
