"""The input layout: ``ROOT/train/<id>/image.tif`` beside ``class<k>.tif``, and test images with their ids.

A sample may also have an ``ignore.tif``: a label map of regions, such as a pathologist's "ambiguous", in which no class
is rewarded or punished.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.data.coco_json import read_json
from cellseg_d2.data.labels import LabelLayer
from cellseg_d2.data.pictures import PICTURE_SUFFIXES
from cellseg_d2.data.regions import ImageRegions, open_image
from cellseg_d2.data.sources import SLIDE_SUFFIXES, is_slide, is_zarr, tiffslide_missing
from cellseg_d2.data.tiff import MAX_PIXELS, read_image, read_label_map
from cellseg_d2.errors import CellSegError

logger = logging.getLogger(__name__)

TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (*TIFF_SUFFIXES, *PICTURE_SUFFIXES, *SLIDE_SUFFIXES)
"""Files that a folder of images to predict is searched for, beside OME-Zarr folders."""

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
        path: a file of any kind that :func:`cellseg_d2.data.regions.open_image` reads, or an OME-Zarr folder.
        size: (height, width) that the id file states; None where it states none.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    id: int
    path: Path
    size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """What its results are called; no two images of :func:`list_images` have one name."""
        return plain_name(self.path)

    def read(self, rule: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """The image, (H, W, 3) uint8 RGB.

        Raises:
            CellSegError: the file cannot be read, is too large, or is not of the size that the id file states.
        """
        if self.path.suffix.lower() in TIFF_SUFFIXES and self.path.is_file():
            image = read_image(self.path, rule, max_pixels)
            self._check_size(image.shape)
            return image
        with self.open(rule, max_pixels) as regions:
            height, width = regions.size
            if height * width > max_pixels:
                raise CellSegError(f"{self.path}: is {_size(regions.size)}, over the limit of {max_pixels} pixels")
            return regions.read((0, 0, width, height))

    def open(self, rule: str, max_pixels: int = MAX_PIXELS) -> ImageRegions:
        """The image, to be read by windows; to be closed.

        Args:
            rule: see :class:`cellseg_d2.data.tiff.IntensityRule`.
            max_pixels: of images that cannot be read by windows.

        Raises:
            CellSegError: as :meth:`read`.
        """
        regions = open_image(self.path, rule, max_pixels)
        try:
            self._check_size(regions.size)
        except CellSegError:
            regions.close()
            raise
        return regions

    def _check_size(self, shape: tuple[int, ...]) -> None:
        if self.size is not None and shape[:2] != self.size:
            raise CellSegError(f"{self.path}: is {_size(shape)}, the id file says {_size(self.size)}; correct it")


def plain_name(path: Path) -> str:
    """What an image's results are called: its file's name without ``.tif``, ``.ome.tif`` and the like."""
    return path.name.removesuffix(path.suffix).removesuffix(".ome")


def find_samples(root: Path) -> tuple[list[Sample], list[Path]]:
    """The labelled images under ``root/train``, sorted by id, and files there that belong to no sample.

    Raises:
        CellSegError: there is no such folder, no sample in it, or a sample with two files for its image or one class.
    """
    folder = root / "train"
    if not folder.is_dir():
        raise CellSegError(f"{folder}: there is no such folder; put each image in {folder}/<id>/image.tif")
    samples, unknown = [], []
    for entry in _visible(folder):
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
    """The TIFFs of the test images under ``root``, by their ids; none where there is no test folder.

    Without an id file, the sorted files are numbered from 1.
    """
    folder, ids = root / TEST_FOLDER, root / TEST_IDS
    if not folder.is_dir():
        return []
    return _with_ids(_tiffs_of(folder), folder, ids if ids.is_file() else None)


def list_images(source: Path | Sequence[Path], ids: Path | None) -> list[TestImage]:
    """The images to predict, with their image ids.

    Args:
        source: a file, an OME-Zarr folder, a folder that holds either, or several of these. What is named twice, a
            file beside its folder, say, is taken once.
        ids: a JSON file ``[{"file_name", "id", "height", "width"}, ...]``; without it the images are numbered from 1,
            in the order of ``source`` and by name in each folder.

    Raises:
        CellSegError: nothing is found, two images have one name, or the id file and the images do not match.
    """
    sources = [source] if isinstance(source, Path) else list(source)
    found = [image for one in sources for image in _images_of(one)]
    images = list({os.path.abspath(image): image for image in found}.values())
    return _with_ids(images, ", ".join(str(one) for one in sources), ids)


def _images_of(source: Path) -> list[Path]:
    """The images of a folder in the order of their names; a file or an OME-Zarr folder itself."""
    if source.is_file() or is_zarr(source):
        return [source]
    if not source.is_dir():
        raise CellSegError(f"{source}: there is no such file or folder")
    images = [
        path for path in _visible(source) if is_zarr(path) or (path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    ]
    if not images:
        raise CellSegError(f"{source}: holds no .tif or .tiff file, no other image and no OME-Zarr folder")
    slides = [path for path in images if is_slide(path)]
    missing = tiffslide_missing() if slides else None
    if missing and len(slides) == len(images):
        raise CellSegError(f"{slides[0]}: {missing}")
    if missing:
        logger.warning("%s: %d slides are left out: each %s", source, len(slides), missing)
        images = [path for path in images if not is_slide(path)]
    return images


def _tiffs_of(folder: Path) -> list[Path]:
    files = [path for path in _visible(folder) if path.suffix.lower() in TIFF_SUFFIXES and path.is_file()]
    if not files:
        raise CellSegError(f"{folder}: holds no .tif or .tiff file")
    return files


def _visible(folder: Path) -> list[Path]:
    """A folder's entries by name, without those of editors and file managers, such as macOS's ``._image.tif``."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _with_ids(images: Collection[Path], source: Path | str, ids: Path | None) -> list[TestImage]:
    """Images with the ids of an id file, or numbered from 1; ``source`` is where they are, for messages."""
    by_name: dict[str, Path] = {}
    for path in images:
        first = by_name.setdefault(plain_name(path), path)
        if first != path and first.parent == path.parent:
            raise CellSegError(f"{path}: has the name of {first.name} but for the suffix; rename one of the two")
        if first != path:
            raise CellSegError(f"{path}: has the name of {first}; rename one of the two, or predict them apart")
    if ids is None:
        return [TestImage(number, path) for number, path in enumerate(images, start=1)]
    entries = read_image_ids(ids)
    by_file = {path.name: path for path in images}
    names = [name for name, _, _ in entries]
    missing = sorted(set(names) - set(by_file))
    unnamed = sorted(set(by_file) - set(names))
    if missing:
        raise CellSegError(f"{ids}: names {missing[0]!r}, which is not in {source} ({len(missing)} such)")
    if unnamed:
        raise CellSegError(f"{ids}: has no id for {unnamed[0]!r} of {source} ({len(unnamed)} such); add it")
    return [TestImage(number, by_file[name], size) for name, number, size in entries]


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
        if not isinstance(name, str) or type(number) is not int or Path(name).name != name or name in ("", ".", ".."):
            raise CellSegError(f"{path}: entry {name!r}: {number!r} is not a plain file name with a whole-number id")
        if not all(side is None or (type(side) is int and side > 0) for side in (height, width)):
            raise CellSegError(f"{path}: {name!r} has the height {height!r} and width {width!r}; write whole numbers")
    for kind, values in ("file name", [name for name, *_ in entries]), ("id", [number for _, number, *_ in entries]):
        twice = next((value for value, count in Counter(values).items() if count > 1), None)
        if twice is not None:
            raise CellSegError(f"{path}: has the {kind} {twice!r} twice; each image has one entry and an id of its own")
    return [(name, number, (height, width) if height and width else None) for name, number, height, width in entries]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"
