"""Labels with errors that are known: some cells of an input layout are dropped, get another class, or are merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from cellseg_d2.annotations.class_tiffs import READER, Sample
from cellseg_d2.annotations.readers import find_labelled
from cellseg_d2.cells.tiling import Window
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import read_label_map

KINDS = ("dropped", "swapped", "merged")

GAP = 2
"""Pixels between two cells of one class that may be merged, at most; those between them become a part of the cell."""

Labels = dict[int, NDArray[np.int32]]
"""An image's label maps by class number."""


@dataclass(frozen=True)
class Planted:
    """An error.

    Attributes:
        image: the image's id.
        kind: one of :data:`KINDS`.
        box: where it is, (x0, y0, x1, y1), half open, in pixels of the image.
    """

    image: str
    kind: str
    box: Window


@dataclass(frozen=True)
class _Choice:
    """An error that could be planted: a cell, or for ``merged`` a pair of cells of one class."""

    image: str
    kind: str
    number: int
    cells: tuple[int, ...]


def plant(source: Path, output: Path, share: float, seed: int, images: int | None = None) -> list[Planted]:
    """Writes a copy of an input layout whose labels have errors; images are links to those of the source.

    A third of the errors is of each kind, without ``swapped`` where there is one class: then a half. No cell has two
    errors, and a merged pair is one error.

    Args:
        source: label TIFFs, see :mod:`cellseg_d2.annotations.class_tiffs`.
        output: a folder that is not there yet.
        share: errors per labelled cell.
        seed: random seed; it decides which cells get an error.
        images: how many images of the source to use, the first ones by name; None for all.

    Raises:
        CellSegError: the source holds no label TIFFs.
    """
    found = find_labelled(source, READER.name)
    samples = [image for image in found.images if isinstance(image, Sample)][:images]
    if not samples:
        raise CellSegError(f"{source}: holds no label TIFFs; give the input layout")
    labels = {sample.id: _read(sample) for sample in samples}
    count = sum(len(np.unique(part)) - 1 for maps in labels.values() for part in maps.values())
    planted = []
    for choice in _chosen(labels, round(share * count), len(found.class_names), np.random.default_rng(seed)):
        box = _box(labels[choice.image][choice.number], choice.cells)
        _apply(labels[choice.image], choice, len(found.class_names))
        planted.append(Planted(choice.image, choice.kind, box))
    for sample in samples:
        folder = output / "train" / sample.id
        folder.mkdir(parents=True)
        (folder / "image.tif").symlink_to(sample.image.resolve())
        for number, label_map in labels[sample.id].items():
            tifffile.imwrite(folder / f"class{number}.tif", label_map, compression="zlib")
    return planted


def _read(sample: Sample) -> Labels:
    return {number: read_label_map(path).astype(np.int32) for number, path in sample.labels.items()}


def _chosen(labels: Mapping[str, Labels], count: int, classes: int, rng: np.random.Generator) -> Iterator[_Choice]:
    """The errors: those of each kind drawn from all that are possible, pairs first, since they are the fewest."""
    kinds = [kind for kind in reversed(KINDS) if kind != "swapped" or classes > 1]
    single = [
        (image, number, int(cell))
        for image, maps in labels.items()
        for number, label_map in maps.items()
        for cell in np.unique(label_map)[1:]
    ]
    used: set[tuple[str, int, int]] = set()
    for place, kind in enumerate(kinds):
        wanted = (count + place) // len(kinds)
        options = (
            [(image, number, pair) for image, maps in labels.items() for number, pair in _pairs(maps)]
            if kind == "merged"
            else [(image, number, (cell,)) for image, number, cell in single]
        )
        for option in rng.permutation(len(options)).tolist():
            image, number, cells = options[option]
            names = {(image, number, cell) for cell in cells}
            if wanted and not names & used:
                used |= names
                wanted -= 1
                yield _Choice(image, kind, number, cells)


def _pairs(maps: Labels) -> Iterator[tuple[int, tuple[int, int]]]:
    """The pairs of cells of one class with at most :data:`GAP` pixels between them."""
    for number, label_map in maps.items():
        pairs = set()
        for cell, (rows, columns) in _places(label_map):
            part = label_map[_wider(rows), _wider(columns)]
            near = ndimage.binary_dilation(part == cell, iterations=GAP + 1)
            pairs |= {(min(cell, other), max(cell, other)) for other in np.unique(part[near]).tolist()}
        yield from ((number, pair) for pair in sorted(pairs) if 0 < pair[0] < pair[1])


def _places(label_map: NDArray[np.int32]) -> Iterator[tuple[int, tuple[slice, slice]]]:
    for cell, place in enumerate(ndimage.find_objects(label_map), start=1):
        if place is not None:
            yield cell, place


def _wider(side: slice) -> slice:
    return slice(max(side.start - GAP - 1, 0), side.stop + GAP + 1)


def _box(label_map: NDArray[np.int32], cells: Sequence[int]) -> Window:
    rows, columns = np.nonzero(np.isin(label_map, cells))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _apply(maps: Labels, choice: _Choice, classes: int) -> None:
    """Makes one error in the label maps of its image."""
    label_map = maps[choice.number]
    mask = np.isin(label_map, choice.cells)
    if choice.kind == "merged":
        bridge = ndimage.binary_closing(np.pad(mask, GAP + 1), iterations=GAP)[GAP + 1 : -GAP - 1, GAP + 1 : -GAP - 1]
        label_map[bridge & ((label_map == 0) | mask)] = choice.cells[0]
        return
    label_map[mask] = 0
    if choice.kind == "swapped":
        # the next class, by a fixed step, so that the error does not hang on how many cells a class has
        other = choice.number % classes + 1
        target = maps.setdefault(other, np.zeros_like(label_map))
        target[mask] = target.max() + 1
