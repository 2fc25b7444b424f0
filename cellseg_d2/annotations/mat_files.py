"""MATLAB files that hold an instance map and its cells' classes, as those of HoVer-Net and of Lizard."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from cellseg_d2.annotations.shapes import named
from cellseg_d2.cells.label_maps import LabelMap, ignore_regions, split_classes
from cellseg_d2.errors import CellSegError, one_line, size_text
from cellseg_d2.images.tiff import as_labels, check_file

logger = logging.getLogger(__name__)

INSTANCES = "inst_map"


def read_mat(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Those of some variables that a MATLAB file has; others are not read.

    Raises:
        CellSegError: it cannot be read, or has no instance map although that is asked for.
    """
    check_file(path)
    try:
        content = scipy.io.loadmat(path, variable_names=list(names))
    except NotImplementedError as error:
        raise CellSegError(f"{path}: is of MATLAB 7.3, which is not read; save it there with '-v7'") from error
    except Exception as error:  # scipy raises anything for a damaged file
        raise CellSegError(f"{path}: cannot be read as a MATLAB file ({one_line(error)}); copy it again") from error
    found = {name: np.asarray(content[name]) for name in names if name in content}
    if INSTANCES in names and (INSTANCES not in found or found[INSTANCES].ndim != 2):
        raise CellSegError(f"{path}: has no {INSTANCES} of one plane; is it of HoVer-Net's or Lizard's form?")
    return found


def variables_of(path: Path) -> set[str]:
    """The names of a file's variables; none of what is no MATLAB file."""
    try:
        return {name for name, _, _ in scipy.io.whosmat(path)}
    except Exception:  # as above; whether a folder is of a format is asked here, errors are told when it is read
        return set()


def layers_of(
    path: Path, labels: NDArray[Any], classes: dict[int, int], size: tuple[int, int], class_count: int
) -> list[LabelMap]:
    """A label map per class; cells of class 0, which have none, are regions to ignore.

    Args:
        path: for messages.
        labels: (H, W) as in the file.
        classes: label -> class number.
        size: (height, width) of the image.
        class_count: classes of the whole set.

    Raises:
        CellSegError: the labels are none, of another size, or one has no class or a class that is not known.
    """
    cells = as_labels(path, labels)
    if cells.shape != size:
        raise CellSegError(
            f"{path}: is {size_text(cells.shape)}, its image {size_text(size)}; they must be of one size"
        )
    present = np.unique(cells[cells > 0]).tolist()
    if missing := [str(label) for label in present if label not in classes]:
        raise CellSegError(f"{path}: has no class for {named(missing)} of the labels; add them")
    if unused := [str(label) for label in sorted(classes.keys() - set(present))]:
        logger.warning("%s: %s of its labels are not in %s", path, named(unused), INSTANCES)
    if wrong := [number for label in present if not 0 <= (number := classes[label]) <= class_count]:
        raise CellSegError(f"{path}: has the class {wrong[0]}; known are 0 to {class_count}")
    without = [label for label in present if classes[label] == 0]
    if not without:
        return split_classes(cells, classes)
    logger.warning("%s: %s of its cells have no class, they are ignored", path, named(map(str, without)))
    ignored = np.isin(cells, without)
    return [
        *split_classes(np.where(ignored, 0, cells), classes),
        ignore_regions(np.where(ignored, cells, 0), class_count),
    ]
