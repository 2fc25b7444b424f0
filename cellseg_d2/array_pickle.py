"""Pickles of numpy arrays in built-in containers, read without running any code of theirs.

Detectron2's model zoo keeps its weights so, and Cellpose its ``_seg.npy``.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import IO, Any

import numpy as np

_PLAIN_DTYPES = frozenset(
    f"{kind}{size}" for kind, sizes in {"i": "1248", "u": "1248", "f": "248"}.items() for size in sizes
)
"""Numbers and ``b1``. Arrays of objects could hold anything, and their pickles addresses in memory."""

_OBJECTS = ("O", "O8")
"""What the pickle of a .npy file calls an array of objects; they are those of the pickle itself."""


def load_arrays(file: IO[bytes], objects: bool = False) -> Any:
    """The content of a pickle that holds numpy arrays and built-in containers.

    Arrays are made here from the file's bytes: numpy's own way to rebuild them trusts what the file says of their type.

    Args:
        file: the pickle, open.
        objects: whether arrays of objects are read, as lists, and one without a shape as its only object: so does
            ``numpy.save`` keep what is no array. Each object is held to the same rule.

    Raises:
        Exception: of any type, for a damaged pickle, or one that holds anything else.
    """
    return _finished((_WithObjects if objects else _ArraysOnly)(file, encoding="latin1").load())


class _Dtype:
    """A dtype by its name, such as ``f4``; the byte order comes with the state."""

    known = _PLAIN_DTYPES | {"b1"}

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in self.known:
            raise pickle.UnpicklingError(f"it has an array of type {name!r}, only numbers are read")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it has numbers of byte order {state[1]!r}")
        self.dtype = self.dtype.newbyteorder(state[1])


class _DtypeOrObject(_Dtype):
    known = _Dtype.known | frozenset(_OBJECTS)


class _Array:
    """An array whose shape, type and bytes come with the state."""

    value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        if dtype.dtype == object:
            self.value = list(data) if shape else data[0]
            return
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
"""All that a file may ask for, and what it gets instead."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a function or class that the pickle asks for."""
        if f"{module}.{name}" not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _KNOWN[f"{module}.{name}"]


class _WithObjects(_ArraysOnly):
    def find_class(self, module: str, name: str) -> Any:
        """As above, with a type of arrays more."""
        found = super().find_class(module, name)
        return _DtypeOrObject if found is _Dtype else found


def _finished(value: Any) -> Any:
    """The same containers with arrays in place of :class:`_Array`."""
    if isinstance(value, _Array):
        return _finished(value.value)
    if isinstance(value, dict):
        return type(value)((key, _finished(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_finished(item) for item in value)
    return value
