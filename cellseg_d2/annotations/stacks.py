"""Sets that are published as arrays of many images, ``images.npy`` beside an array of their labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.annotations.reader import ImageLabels, LabelledImage
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.errors import CellSegError, one_line, size_text
from cellseg_d2.images.channels import Rule, picked_of_rgb
from cellseg_d2.images.stated import RGB_8_BIT
from cellseg_d2.images.tiff import check_file

IMAGES = "images.npy"
LEVELS = ("", "*/", "*/*/", "*/*/*/")
"""How deep arrays are looked for."""


@dataclass(frozen=True)
class StackedImage(LabelledImage):
    """One image of an array.

    Attributes:
        id: the name of the array's folder, and the place.
        image: the array of all images, (N, H, W, 3).
        labels: the array of all labels, (N, H, W, channels).
        place: the image's place, from 0.
        group: what it was cut from; empty where that is not known.
    """

    id: str
    image: Path
    labels: Path
    place: int
    group: str = ""

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`."""
        pixels = np.array(open_stack(self.image)[self.place])
        labels = np.array(open_stack(self.labels)[self.place])
        if pixels.shape[0] * pixels.shape[1] > max_pixels:
            raise CellSegError(f"{self.image}: has images of {size_text(pixels.shape)}, over the limit of {max_pixels}")
        where = f"{self.labels}: image {self.place}"
        name = f"{self.image}: image {self.place}"
        image = picked_of_rgb(name, _rgb(name, pixels), rule)
        return ImageLabels(image, self.layers(where, labels, class_count), RGB_8_BIT)

    @abstractmethod
    def layers(self, where: str, labels: NDArray[Any], class_count: int) -> list[LabelMap]:
        """The label maps of one image.

        Args:
            where: file and place, for messages.
            labels: (H, W, channels).
            class_count: classes of the whole set.
        """


def open_stack(path: Path) -> NDArray[Any]:
    """An array on disk, (N, H, W, channels) of numbers; pixels are read as they are asked for.

    Raises:
        CellSegError: it cannot be read, or is of another form.
    """
    check_file(path)
    try:
        stack: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises anything for a damaged header, such as tokenize.TokenError
        raise CellSegError(f"{path}: cannot be read as an array ({one_line(error)}); download it again") from error
    if not isinstance(stack, np.ndarray) or stack.ndim != 4 or stack.dtype.kind not in "iufb":
        raise CellSegError(f"{path}: holds no numbers as (images, height, width, channels); download it again")
    return stack


def _rgb(where: str, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """8-bit RGB; floats and wider integers hold values of 8 bit, as PanNuke's do."""
    whole = np.rint(pixels)
    if not ((whole >= 0) & (whole <= 255)).all():  # NaN compares False
        raise CellSegError(f"{where}: has values outside 0 .. 255; save 8-bit images")
    return whole.astype(np.uint8)


def check_stacks(images: Path, labels: Path, channels: int) -> int:
    """How many images two arrays hold.

    Raises:
        CellSegError: they do not fit each other.
    """
    first, second = open_stack(images).shape, open_stack(labels).shape
    if first[3] != 3:
        raise CellSegError(f"{images}: has {first[3]} channels, an RGB image has 3")
    if second != (*first[:3], channels):
        raise CellSegError(f"{labels}: is {second}, its images {first}; it must be {(*first[:3], channels)}")
    return first[0]


def find_stacks(root: Path) -> Iterator[Path]:
    """The arrays of images in and below a folder, sorted within each level."""
    for level in LEVELS:
        yield from sorted(root.glob(f"{level}{IMAGES}"))


def names_of(root: Path, stacks: list[Path]) -> list[str]:
    """What each array's images are called: its folder's name, or its path where two have one name; a dash behind it."""
    names = [path.parent.name if path.parent != root else "" for path in stacks]
    if len(set(names)) < len(names):
        names = ["_".join(path.parent.relative_to(root).parts) for path in stacks]
    return [name and f"{name}-" for name in names]
