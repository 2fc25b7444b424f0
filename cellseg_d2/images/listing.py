"""Images without labels: how they are listed from folders, with their ids and sizes."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.errors import CellSegError, size_text
from cellseg_d2.files import read_json, visible_entries
from cellseg_d2.images.formats import TIFF_SUFFIXES, is_image, open_image, read_whole
from cellseg_d2.images.regions import ImageRegions
from cellseg_d2.images.sources import is_slide, is_zarr, tiffslide_missing
from cellseg_d2.images.tiff import MAX_PIXELS

logger = logging.getLogger(__name__)

TEST_FOLDER = "test_release"


TEST_IDS = "test_image_name_to_ids.json"


@dataclass(frozen=True)
class InputImage:
    """One unlabelled image and its id, which its predictions carry.

    Attributes:
        id: the image id.
        path: a file of any kind that :func:`cellseg_d2.images.formats.open_image` reads, or an OME-Zarr folder.
        size: (height, width) that the id file states; None where it states none.
    """

    id: int
    path: Path
    size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The name of its results; no two images of :func:`list_images` have the same one."""
        return plain_name(self.path)

    def read(self, rule: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """The image, (H, W, 3) uint8 RGB.

        Raises:
            CellSegError: the file cannot be read, is too large, or is not of the size that the id file states.
        """
        image = read_whole(self.path, rule, max_pixels)
        self._check_size(image.shape)
        return image

    def open(self, rule: str, max_pixels: int = MAX_PIXELS) -> ImageRegions:
        """Opens the image to read it by windows; the caller closes it.

        Args:
            rule: see :class:`cellseg_d2.images.tiff.IntensityRule`.
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


def plain_name(path: Path) -> str:
    """The name of an image's results: its file's name without ``.tif``, ``.ome.tif`` and the like."""
    return path.name.removesuffix(path.suffix).removesuffix(".ome")


def find_test_images(root: Path) -> list[InputImage]:
    """The TIFFs of the test images under ``root``, sorted by id; none where there is no test folder.

    Without an id file, the sorted files are numbered from 1.
    """
    folder, ids = root / TEST_FOLDER, root / TEST_IDS
    if not folder.is_dir():
        return []
    return _with_ids(_tiffs_of(folder), folder, ids if ids.is_file() else None)


def list_images(source: Path | Sequence[Path], ids: Path | None) -> list[InputImage]:
    """The images to predict, with their image ids.

    Args:
        source: a file, an OME-Zarr folder, a folder that holds either, or several of these. An image that is named
            twice, for example by its file and by its folder, is taken once.
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
    images = [path for path in visible_entries(source) if is_image(path)]
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
    files = [path for path in visible_entries(folder) if path.suffix.lower() in TIFF_SUFFIXES and path.is_file()]
    if not files:
        raise CellSegError(f"{folder}: holds no .tif or .tiff file")
    return files


def _with_ids(images: Collection[Path], source: Path | str, ids: Path | None) -> list[InputImage]:
    """Images with the ids of an id file, or numbered from 1; ``source`` is where they are, for messages."""
    by_name: dict[str, Path] = {}
    for path in images:
        first = by_name.setdefault(plain_name(path), path)
        if first != path and first.parent == path.parent:
            raise CellSegError(f"{path}: has the name of {first.name} but for the suffix; rename one of the two")
        if first != path:
            raise CellSegError(f"{path}: has the name of {first}; rename one of the two, or predict them apart")
    if ids is None:
        return [InputImage(number, path) for number, path in enumerate(images, start=1)]
    entries = read_image_ids(ids)
    by_file = {path.name: path for path in images}
    names = [name for name, _, _ in entries]
    missing = sorted(set(names) - set(by_file))
    unnamed = sorted(set(by_file) - set(names))
    if missing:
        raise CellSegError(f"{ids}: names {missing[0]!r}, which is not in {source} ({len(missing)} such)")
    if unnamed:
        raise CellSegError(f"{ids}: has no id for {unnamed[0]!r} of {source} ({len(unnamed)} such); add it")
    return [InputImage(number, by_file[name], size) for name, number, size in entries]


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
            raise CellSegError(f"{path}: has the {kind} {twice!r} twice; write one entry and another id for each image")
    return [(name, number, (height, width) if height and width else None) for name, number, height, width in entries]
