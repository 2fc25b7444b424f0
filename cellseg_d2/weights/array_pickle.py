"""Reads ``.pkl`` files of Detectron2's model zoo, numpy arrays in built-in containers, without running their code."""

from __future__ import annotations

import os
from typing import Any

from cellseg_d2.array_pickle import load_arrays
from cellseg_d2.errors import CellSegError, one_line


def read_array_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a ``.pkl`` file that holds numpy arrays and built-in containers.

    Raises:
        CellSegError: no such file, damaged, or it holds anything else.
    """
    try:
        with open(path, "rb") as file:
            content = load_arrays(file)
    except FileNotFoundError as error:
        raise CellSegError(f"{path}: there is no such file") from error
    except Exception as error:  # a damaged pickle raises anything
        raise CellSegError(f"{path}: is no file of weights ({type(error).__name__}: {one_line(error, 150)})") from error
    if not isinstance(content, dict):
        raise CellSegError(f"{path}: is no file of weights, but a {type(content).__name__}")
    return content
