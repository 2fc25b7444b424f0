"""Reads ``.pkl`` files of Detectron2's model zoo, numpy arrays in built-in containers, without running their code."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np

from cellseg_d2.errors import CellSegError, one_line

_PLAIN_DTYPES = frozenset(
    f"{kind}{size}" for kind, sizes in {"i": "1248", "u": "1248", "f": "248"}.items() for size in sizes
)
"""Numbers and ``b1``. Arrays of objects are not read: they could hold anything."""


def read_array_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a ``.pkl`` file that holds numpy arrays and built-in containers.

    Arrays are made here from the file's bytes, because numpy would trust what the file says about their type.

    Raises:
        CellSegError: no such file, damaged, or it holds anything else.
    """
    try:
        with open(path, "rb") as file:
            content = _finished(_ArraysOnly(file, encoding="latin1").load())
    except FileNotFoundError as error:
        raise CellSegError(f"{path}: there is no such file") from error
    except Exception as error:  # a damaged pickle raises anything
        raise CellSegError(f"{path}: is no file of weights ({type(error).__name__}: {one_line(error, 150)})") from error
    if not isinstance(content, dict):
        raise CellSegError(f"{path}: is no file of weights, but a {type(content).__name__}")
    return content


class _Dtype:
    """A dtype by its name, such as ``f4``; the byte order comes with the state."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in _PLAIN_DTYPES | {"b1"}:
            raise pickle.UnpicklingError(f"it has an array of type {name!r}, only numbers are read")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it has numbers of byte order {state[1]!r}")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array whose shape, type and bytes come with the state."""

    value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        raw = data.encode("latin1") if isinstance(data, str) else data
        flat = np.frombuffer(raw, dtype.dtype)
        # native byte order, as torch wants it; a copy, as the buffer cannot be written to
        self.value = flat.reshape(shape, order="F" if is_fortran else "C").astype(dtype.dtype.newbyteorder("="))


def _rebuilt(kind: Any, shape: Any, code: Any) -> _Array:
    """``numpy.core.multiarray._reconstruct``: an empty array that gets its state afterwards."""
    return _Array()


def _scalar(dtype: _Dtype, data: Any) -> Any:
    """``numpy.core.multiarray.scalar``: one number."""
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.dtype)[0]


def _from_buffer(buffer: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
    """``numpy.core.numeric._frombuffer``: how arrays are pickled since protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(buffer)))
    return array


def _text_as_bytes(text: str, encoding: str) -> bytes:
    """``_codecs.encode`` as pickles of protocol 2 use it for bytes."""
    return text.encode(encoding) if encoding == "latin1" else text.encode("ascii")


def _no_bytes() -> bytes:
    """``bytes()``: how protocol 2 writes empty bytes. With an argument it could ask for any amount of memory."""
    return b""


_KNOWN = {
    **{f"numpy.{core}.multiarray._reconstruct": _rebuilt for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _text_as_bytes,
    "__builtin__.bytes": _no_bytes,
}
"""The functions and classes that a file may name -> their replacements."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The replacement for a function or class that the pickle names."""
        if f"{module}.{name}" not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _KNOWN[f"{module}.{name}"]


def _finished(value: Any) -> Any:
    """The same containers with numpy arrays instead of :class:`_Array`."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return type(value)((key, _finished(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_finished(item) for item in value)
    return value
