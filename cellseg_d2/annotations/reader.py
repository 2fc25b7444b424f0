"""What every annotation format gives: labelled images that are read one at a time.

A new format is a module with a :class:`Reader`, and a line in :mod:`cellseg_d2.annotations.readers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.stated import NOT_STATED, Stated


@dataclass(frozen=True, eq=False)
class ImageLabels:
    """An image with its cells.

    Attributes:
        image: (H, W, 3) uint8 RGB, or (H, W, C) of the channels asked for.
        label_maps: label maps of the image's size: one or more per class, in which no two cells of a map overlap, and
            with ``crowd`` regions to ignore. A single label map of several classes becomes one per class with
            :func:`cellseg_d2.cells.label_maps.split_classes`.
        stated: what the image's file states.
    """

    image: NDArray[np.uint8]
    label_maps: list[LabelMap]
    stated: Stated = NOT_STATED


class LabelledImage(ABC):
    """One labelled image; nothing is read before :meth:`read`. Formats add what they need to find it.

    Attributes:
        id: the image's name, unique within the dataset, and a valid file name.
        image: the image's file.
        group: what the image belongs to, such as a patient; images of one group are never split. Empty for none.
    """

    id: str
    image: Path
    group: str = ""

    @abstractmethod
    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """Reads the image and its cells.

        Args:
            rule: how images that are not 8 bit are scaled, and which channels are read, see
                :class:`cellseg_d2.images.channels.PixelRule`.
            max_pixels: larger images are refused from their header.
            class_count: classes of the whole dataset; regions to ignore count for all of them.

        Raises:
            CellSegError: a file cannot be read or does not fit the others.
        """

    def problems(self, rule: Rule, max_pixels: int, class_count: int) -> list[str]:
        """A line for each file that cannot be used; here the first one, formats with several files may tell all."""
        return problem_of(lambda: self.read(rule, max_pixels, class_count))


def problem_of(read: Callable[[], object]) -> list[str]:
    """The message of the CellSegError that a call raises, in a list; an empty list where it raises none."""
    try:
        read()
    except CellSegError as error:
        return [str(error)]
    return []


@dataclass(frozen=True)
class LabelledSet:
    """All labelled images of an input.

    Attributes:
        images: sorted by id.
        class_names: the names of class 1, 2, ...
        notes: a line for each kind of thing that was left out.
    """

    images: Sequence[LabelledImage]
    class_names: list[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Reader:
    """An annotation format.

    Attributes:
        name: its name on the command line.
        description: one line for help.
        recognises: whether a folder looks like this format, from names alone.
        find: gives the labelled images of a folder and, for formats that have one, an annotation file. It raises
            CellSegError where there are none, or they cannot be told apart. With ``options`` it takes these as keyword
            arguments of type str too.
        options: what may be asked of it behind its name, as in ``qupath:region=Tumour``.
    """

    name: str
    description: str
    recognises: Callable[[Path], bool]
    find: Callable[..., LabelledSet]
    options: tuple[str, ...] = ()
