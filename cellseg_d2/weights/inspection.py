"""Inspects a file of weights before torch opens it: only tensors in built-in containers are allowed.

``torch.load(weights_only=True)`` alone is not enough. Before torch 2.6 it passes TorchScript archives on to
``torch.jit.load``, which runs code of the file (CVE-2025-32434), and it unpacks legacy tar archives. No version
compares the sizes that a file claims with those that it has, so a small file can ask for all memory.

This module does not use torch. It reads the pickle inside a file with an unpickler that knows a few names, and replaces
each by an object that does nothing.
"""

from __future__ import annotations

import os
import pickle
import re
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any

from cellseg_d2.errors import CellSegError, one_line

ZIP_MAGIC = b"PK\x03\x04"
"""The first bytes of every archive of :func:`torch.save`, by which torch recognises one."""

END_MAGIC = b"PK\x05\x06"
"""The first bytes of a zip archive's end record; without a comment after it, it takes the last 22 bytes."""

LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""The first bytes of files of torch before 1.6, such as many ImageNet weights (``MAGIC_NUMBER`` in its source)."""

LARGEST_PICKLE = 2**26
"""The most bytes of a pickle, which holds only names and shapes: some 100 kB for a Mask R-CNN with its optimizer."""

LEGACY_PICKLES = 5
"""The pickles in a legacy file: magic number, protocol version, system information, content, keys of storages."""

_ENTRY = re.compile(
    r"(?P<folder>[^/\\]+)/(data\.pkl|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id|data/(?P<key>\d+))"
)

_ITEM_SIZES = {
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "UntypedStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
}


def check_torch_file(path: str | os.PathLike[str]) -> list[str]:
    """Checks that a ``.pth`` file holds only tensors and built-in containers, of the sizes that it claims.

    Both formats of :func:`torch.save` are allowed: the zip archive, and that of torch before 1.6.

    Returns:
        The names of the archive's entries, sorted; none where the file is no archive.

    Raises:
        CellSegError: it is of another kind, such as TorchScript or a tar archive, it names anything but tensors, it
            claims sizes that it does not have, or it is damaged.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(len(LEGACY_MAGIC))
        file.seek(0)
        try:
            if start.startswith(ZIP_MAGIC):
                return _check_archive(file)
            if start == LEGACY_MAGIC:
                _check_legacy(file)
                return []
            raise ValueError("it is neither a zip archive nor a pickle of torch.save")
        except OSError:
            raise
        except Exception as error:  # a damaged pickle or archive raises anything
            raise CellSegError(
                f"{path}: is no checkpoint of tensors ({one_line(error, 150)}); it was not opened"
            ) from error


def _check_archive(file: IO[bytes]) -> list[str]:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(size - len(END_MAGIC) - 18, 0))
    if not file.read().startswith(END_MAGIC):
        raise ValueError("the archive does not end where the file ends")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        found = [_ENTRY.fullmatch(entry.orig_filename) for entry in entries]
        names = [entry.orig_filename for entry in entries]
        unknown = next((name for name, match in zip(names, found) if match is None), None)
        if unknown is not None:
            kind = "a TorchScript archive, it has " if "code/" in unknown or "constants.pkl" in unknown else ""
            raise ValueError(f"{kind}the entry {unknown[:60]!r}")
        matches = [match for match in found if match is not None]
        if len({match["folder"] for match in matches}) != 1 or len(set(names)) != len(names):
            raise ValueError("its entries are not those of one archive of torch.save")
        for entry in entries:
            if (
                entry.compress_type != zipfile.ZIP_STORED
                or entry.file_size != entry.compress_size
                or entry.flag_bits & 1
            ):
                raise ValueError(f"the entry {entry.filename!r} is compressed, which torch.save never does")
            _check_header(file, entry)
        if min(entry.header_offset for entry in entries):
            raise ValueError("the archive does not begin where the file begins")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries are larger than the file")
        storages = {match["key"]: entry.file_size for match, entry in zip(matches, entries) if match["key"]}
        content = next((entry for entry in entries if entry.filename.endswith("/data.pkl")), None)
        if content is None or content.file_size > LARGEST_PICKLE:
            raise ValueError("it has no data.pkl" if content is None else f"its data.pkl has {content.file_size} bytes")
        if damaged := archive.testzip():  # torch compares no checksum
            raise ValueError(
                f"the entry {damaged!r} has another checksum than it had when it was written; copy it again"
            )
        with archive.open(content) as stream:
            _TensorsOnly(stream, storages).load()
    return sorted(names)


def _check_header(file: IO[bytes], entry: zipfile.ZipInfo) -> None:
    """Compares an entry's two headers, so that torch and zipfile cannot see different archives."""
    file.seek(entry.header_offset)
    fields = struct.unpack("<4s5H3I2H", file.read(30))
    if fields[0] != ZIP_MAGIC or file.read(fields[9]).decode("utf-8") != entry.orig_filename:
        raise ValueError(f"the headers of the entry {entry.filename!r} differ")


def _check_legacy(file: IO[bytes]) -> None:
    size = os.fstat(file.fileno()).st_size
    if tarfile.is_tarfile(file):  # torch tries that first, and unpacks it
        raise ValueError("it is a tar archive")
    file.seek(0)
    claimed: dict[str, int] = {}
    keys: Any = None
    for _ in range(LEGACY_PICKLES):
        keys = _TensorsOnly(file, None, claimed).load()
    if not isinstance(keys, list) or set(keys) != set(claimed):
        raise ValueError("its list of storages is not that of its tensors")
    if sum(claimed.values()) > size - file.tell():
        raise ValueError("its tensors are larger than the file")


class _Stand:
    """The object that the pickle builds instead of a tensor."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Storage:
    """A storage of the file, or its type: bytes per item, and number of items."""

    def __init__(self, item_size: int, items: int = 0) -> None:
        self.item_size = item_size
        self.items = items


def _stand_for_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Stand:
    """Replaces ``torch._utils._rebuild_tensor_v2``: makes no tensor, but compares its shape with its storage."""
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise ValueError("a tensor has no storage, or another number of strides than of sides")
    if any(type(number) is not int or number < 0 for number in (offset, *size, *stride)):
        raise ValueError("a tensor has a shape that is none")
    items, last = 1, offset
    for side, step in zip(size, stride):
        items *= side
        last += (side - 1) * step
    if items and (items > storage.items or last >= storage.items):
        raise ValueError(f"a tensor of shape {tuple(size)} has a storage of {storage.items} items")
    return _Stand()


def _stand_for_parameter(data: Any, *rest: Any) -> _Stand:
    """Replaces ``torch._utils._rebuild_parameter``: makes no parameter."""
    return _Stand()


_KNOWN: Mapping[str, Callable[..., Any] | _Storage] = {
    "collections.OrderedDict": OrderedDict,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor_v2": _stand_for_tensor,
    "torch._utils._rebuild_parameter": _stand_for_parameter,
    "torch.storage.UntypedStorage": _Storage(1),
    **{f"torch.{name}": _Storage(item_size) for name, item_size in _ITEM_SIZES.items()},
}
"""The functions and classes that a pickle may name -> their replacements."""


class _TensorsOnly(pickle.Unpickler):
    """Reads the pickle of a checkpoint without building its objects.

    Args:
        stream: the pickle.
        storages: bytes of each storage that the archive has, by key; None where they follow the pickle.
        claimed: is filled with the bytes of each storage that the pickle names, by key.
    """

    def __init__(
        self, stream: IO[bytes], storages: Mapping[str, int] | None, claimed: dict[str, int] | None = None
    ) -> None:
        super().__init__(stream, encoding="latin1")
        self._storages = storages
        self._claimed = {} if claimed is None else claimed

    def find_class(self, module: str, name: str) -> Any:
        """The replacement for a function or class that the pickle names."""
        if f"{module}.{name}" not in _KNOWN:
            raise ValueError(f"it asks for {module}.{name}")
        return _KNOWN[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage: ``("storage", type, key, device, number of items[, None])``."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or pid[5:] not in ((), (None,)):
            raise ValueError("it names something that is no storage")
        _, kind, key, _, items = pid[:5]
        if not isinstance(kind, _Storage) or not isinstance(key, str) or type(items) is not int or items < 0:
            raise ValueError("it names a storage that is none")
        size = items * kind.item_size
        if self._storages is not None and self._storages.get(key) != size:
            raise ValueError(f"the storage {key!r} has another size than its tensors need")
        if self._claimed.setdefault(key, size) != size:
            raise ValueError(f"the storage {key!r} has two sizes")
        return _Storage(kind.item_size, items)
