"""Cellpose's ``x_seg.npy``, which its GUI opens, and ``x_cp_masks.png``; a folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.label_tiff import label_map
from cellseg_d2.files import as_file_name, whole_file


def write_cellpose(
    folder: Path, name: str, image_name: str, instances: CellInstances, class_names: Sequence[str]
) -> None:
    """Writes ``<class>/x_seg.npy`` and ``<class>/x_cp_masks.png`` of an image ``x.tif``.

    Cellpose knows no classes, and its GUI saves beside the image, so each class needs a folder. Each file holds what
    ``class<k>.tif`` does, see :mod:`.label_tiff`: of cells of a class that overlap, the one with the best score lies on
    top. The GUI numbers cells anew where ids are missing. Of more than 65,535 cells the masks are a TIFF.

    Args:
        folder: where the classes' folders go.
        name: the image's name, ``x``; with its folder, where it lies in one below the input.
        image_name: the image's file, ``x.tif``, which the GUI looks for beside ``x_seg.npy``.
        instances: the cells.
        class_names: the names of class 0, 1, ...; see :func:`class_folders`.

    Raises:
        CellSegError: a file cannot be written.
    """
    for number, class_folder in enumerate(class_folders(class_names)):
        labels = label_map(instances, number)
        base = folder / class_folder / name
        _write_seg(base.with_name(f"{base.name}_seg.npy"), labels, PurePosixPath(image_name).name)
        _write_masks(base, labels)


def class_folders(class_names: Sequence[str]) -> list[str]:
    """The classes' folders: their names as far as file names may have them, and numbered where two are alike.

    >>> class_folders(["T cell", "a/b", "a:b"])
    ['T cell', 'a_b', 'a_b_3']
    """
    plain = [as_file_name(name) for name in class_names]
    folded = [name.casefold() for name in plain]
    return [
        f"{name}_{number}" if folded[number - 1] in folded[: number - 1] else name
        for number, name in enumerate(plain, start=1)
    ]


def _write_seg(path: Path, labels: NDArray[np.unsignedinteger[Any]], image_name: str) -> None:
    """The dict of ``cellpose.io.masks_flows_to_seg``, without flows."""
    content = {
        "outlines": labels * find_boundaries(labels, mode="inner"),  # type: ignore[no-untyped-call]
        "masks": labels,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(int(labels.max()), bool),
        "filename": image_name,
        "flows": [[], [], [], [], [[]]],
        "diameter": float("nan"),
    }
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, np.array(content, object), allow_pickle=True)


def _write_masks(base: Path, labels: NDArray[np.unsignedinteger[Any]]) -> None:
    if labels.dtype == np.uint16:
        with whole_file(base.with_name(f"{base.name}_cp_masks.png")) as partial:
            partial.write_bytes(cv2.imencode(".png", labels)[1].tobytes())
    else:
        with whole_file(base.with_name(f"{base.name}_cp_masks.tif")) as partial:
            tifffile.imwrite(partial, labels, compression="zlib", photometric="minisblack", metadata=None)
