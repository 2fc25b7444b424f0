"""Images without labels: how they are listed from folders, with their ids and sizes."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.image_names import plain_name, read_image_ids
from cellseg_d2.errors import CellSegError, size_text
from cellseg_d2.files import visible_entries
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import TIFF_SUFFIXES, is_image, open_image, read_whole
from cellseg_d2.images.regions import ImageRegions
from cellseg_d2.images.sources import is_slide, is_zarr, tiffslide_missing
from cellseg_d2.images.tiff import MAX_PIXELS

logger = logging.getLogger(__name__)

TEST_FOLDER = "test_release"


TEST_IDS = "test_image_name_to_ids.json"

RESULTS_RECORD = "prediction.json"
"""What ``predict`` writes into each folder of results, see :mod:`cellseg_d2.export.record`."""

RESULT_FOLDERS = ("cellpose", "csv", "geojson", "labelme", "labels", "overlays", "rois")
"""Folders of files per image that ``predict`` writes into a folder of results."""


@dataclass(frozen=True)
class InputImage:
    """One unlabelled image and its id, which its predictions carry.

    Attributes:
        id: the image id.
        path: a file of any kind that :func:`cellseg_d2.images.formats.open_image` reads, or an OME-Zarr folder.
        size: (height, width) that the id file states; None where it states none.
        folder: where it lies below the folder that was listed, such as ``plate1/well2``; empty for directly in it.
        region: the file of the part of it that is to be predicted; None for all of it.
    """

    id: int
    path: Path
    size: tuple[int, int] | None = None
    folder: str = ""
    region: Path | None = None

    @property
    def name(self) -> str:
        """The name of its results, with its folder; no two images of :func:`list_images` have the same one."""
        return str(PurePosixPath(self.folder, plain_name(self.path)))

    @property
    def file_name(self) -> str:
        """Its file's name with its folder, as results and id files state it."""
        return str(PurePosixPath(self.folder, self.path.name))

    def read(self, rule: Rule, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """The image, (H, W, 3) uint8 RGB, or (H, W, C) where the rule names C channels.

        Raises:
            CellSegError: the file cannot be read, is too large, or is not of the size that the id file states.
        """
        image = read_whole(self.path, rule, max_pixels)
        self._check_size(image.shape)
        return image

    def open(self, rule: Rule, max_pixels: int = MAX_PIXELS) -> ImageRegions:
        """Opens the image to read it by windows; the caller closes it.

        Args:
            rule: see :func:`cellseg_d2.images.formats.open_image`.
            max_pixels: the limit for images that cannot be read by windows.

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
            raise CellSegError(
                f"{self.path}: is {size_text(shape)}, the id file says {size_text(self.size)}; correct it"
            )


def find_test_images(root: Path) -> list[InputImage]:
    """The TIFFs of the test images under ``root``, sorted by id; none where there is no test folder.

    Without an id file, the sorted files are numbered from 1.
    """
    folder, ids = root / TEST_FOLDER, root / TEST_IDS
    if not folder.is_dir():
        return []
    images = [InputImage(number, path) for number, path in enumerate(_tiffs_of(folder), start=1)]
    _check_names(images)
    return _with_ids(images, folder, ids) if ids.is_file() else images


def list_images(source: Path | Sequence[Path], ids: Path | None, output: Path | None = None) -> list[InputImage]:
    """The images to predict, with their image ids.

    Images of one name from several sources are told apart by the folders that they lie in.

    Args:
        source: a file, an OME-Zarr folder, a folder that holds either, also in folders below, or several of these. An
            image that is named twice, for example by its file and by its folder, is taken once. Folders that
            ``predict`` wrote are left out, unless they are named themselves.
        ids: a JSON file ``[{"file_name", "id", "height", "width"}, ...]``; without it the images are numbered from 1,
            in the order of ``source`` and by path in each folder.
        output: a folder for results, in which no images are looked for.

    Raises:
        CellSegError: nothing is found, two images have one name, or the id file and the images do not match.
    """
    sources = [source] if isinstance(source, Path) else list(source)
    once: dict[str, InputImage] = {}
    for image in (image for one in sources for image in _images_of(one, output)):
        once.setdefault(os.path.abspath(image.path), image)
    images = list(once.values())
    if len({image.name for image in images}) < len(images) and len(sources) > 1:
        images = _below_common_folder(images)
    _check_names(images)
    if ids is not None:
        return _with_ids(images, ", ".join(str(one) for one in sources), ids)
    return [replace(image, id=number) for number, image in enumerate(images, start=1)]


def _images_of(source: Path, output: Path | None) -> list[InputImage]:
    """The images of a folder and those below it in the order of their paths; a file or an OME-Zarr folder itself."""
    if source.is_file() or is_zarr(source):
        return [InputImage(0, source)]
    if not source.is_dir():
        raise CellSegError(f"{source}: there is no such file or folder")
    images = list(_walk(source, output, ()))
    if not images:
        raise CellSegError(f"{source}: holds no .tif or .tiff file, no other image and no OME-Zarr folder")
    slides = [image.path for image in images if is_slide(image.path)]
    missing = tiffslide_missing() if slides else None
    if missing and len(slides) == len(images):
        raise CellSegError(f"{slides[0]}: {missing}")
    if missing:
        logger.warning("%s: %d slides are left out: each %s", source, len(slides), missing)
        images = [image for image in images if not is_slide(image.path)]
    return images


def _walk(folder: Path, output: Path | None, above: tuple[str, ...], place: str = "") -> Iterator[InputImage]:
    """The images in a folder and below it; ``above`` are real paths of the folders on the way, ``place`` names them."""
    real = os.path.realpath(folder)
    if real in above:  # a link that leads back up
        return
    has_results = _has_results(folder, output)
    try:
        entries = visible_entries(folder)
    except OSError as error:
        raise CellSegError(f"{folder}: cannot be read ({error.strerror}); make it readable or move it away") from error
    for path in entries:
        if is_image(path):
            yield InputImage(0, path, folder=place)
        elif not path.is_dir() or (has_results and path.name in RESULT_FOLDERS):
            continue
        elif _has_results(path, output):
            logger.info("%s: holds results of predict, so no images are looked for in it", path)
        else:
            yield from _walk(path, output, (*above, real), str(PurePosixPath(place, path.name)))


def _has_results(folder: Path, output: Path | None) -> bool:
    """Whether ``predict`` wrote this folder or is to write it: its overlays and label maps are no images to predict."""
    is_output = output is not None and os.path.realpath(folder) == os.path.realpath(output)
    return is_output or (folder / RESULTS_RECORD).is_file()


def _tiffs_of(folder: Path) -> list[Path]:
    files = [path for path in visible_entries(folder) if path.suffix.lower() in TIFF_SUFFIXES and path.is_file()]
    if not files:
        raise CellSegError(f"{folder}: holds no .tif or .tiff file")
    return files


def _below_common_folder(images: Sequence[InputImage]) -> list[InputImage]:
    """The same images with their folders as seen from the folder that holds all of them."""
    folders = [os.path.abspath(image.path.parent) for image in images]
    common = os.path.commonpath(folders)
    places = (os.path.relpath(folder, common).replace(os.sep, "/") for folder in folders)
    return [replace(image, folder="" if place == "." else place) for image, place in zip(images, places)]


def _check_names(images: Sequence[InputImage]) -> None:
    """Raises CellSegError where results of two images would have one name: they differ in their suffixes alone."""
    by_name: dict[str, Path] = {}
    for image in images:
        first = by_name.setdefault(image.name, image.path)
        if first != image.path:
            raise CellSegError(f"{image.path}: has the name of {first.name} but for the suffix; rename one of the two")


class ByFileName:
    """Finds images by the names that id files and datasets state: the path below the input folder, or the name alone.

    The name alone is enough where no other image has it.
    """

    def __init__(self, images: Iterable[InputImage]) -> None:
        self._by_path: dict[str, InputImage] = {}
        self._by_name: dict[str, list[InputImage]] = defaultdict(list)
        for image in images:
            self._by_path[image.file_name] = image
            self._by_name[image.path.name].append(image)

    def exact(self, stated: str) -> InputImage | None:
        """The image of this path, or, of a name alone, the only one; None where there is none."""
        there = self._by_name.get(stated, [])
        return self._by_path.get(stated) or (there[0] if len(there) == 1 else None)

    def __getitem__(self, stated: str) -> InputImage | None:
        """As :meth:`exact`, or else the only image of this name whatever the folder that is stated with it."""
        return self.exact(stated) or self.exact(PurePosixPath(stated).name)


def _with_ids(images: Sequence[InputImage], source: Path | str, ids: Path) -> list[InputImage]:
    """Images with the ids of an id file; ``source`` is where they are, for messages."""
    named = ByFileName(images)
    chosen = [(name, number, size, named.exact(name)) for name, number, size in read_image_ids(ids)]
    missing = sorted(name for name, _, _, image in chosen if image is None)
    found = [replace(image, id=number, size=size) for _, number, size, image in chosen if image is not None]
    unnamed = sorted({image.file_name for image in images} - {image.file_name for image in found})
    if missing:
        raise CellSegError(f"{ids}: names {missing[0]!r}, which is not in {source} ({len(missing)} such)")
    if unnamed:
        raise CellSegError(f"{ids}: has no id for {unnamed[0]!r} of {source} ({len(unnamed)} such); add it")
    _check_once(found, ids)
    return found


def _check_once(images: Sequence[InputImage], ids: Path) -> None:
    twice = next((name for name, count in Counter(image.file_name for image in images).items() if count > 1), None)
    if twice is not None:
        raise CellSegError(f"{ids}: names {twice!r} twice, with its folder and without; leave one out")
