"""Inspects an OME-Zarr folder's metadata before zarr opens it: some codecs run code, and paths may lead elsewhere.

zarr looks codecs up by the name that the metadata gives, so the metadata decides which code runs. numcodecs' ``pickle``
codec runs any code that a chunk, a filter or a fill value contains. Only codecs that images use are allowed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cellseg_d2.errors import CellSegError
from cellseg_d2.files import read_json

CODECS = frozenset(
    (
        *("bytes", "transpose", "sharding_indexed", "crc32", "crc32c", "adler32", "fletcher32"),
        *("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"),
        *("bitround", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle"),
    )
)
"""Compressors, filters and serialisers that only turn bytes into numbers."""

LARGEST_CHUNK = 2**31
"""The most bytes of a decoded chunk, since zarr decodes a chunk as a whole."""

_NUMBERS_V2 = re.compile(r"[<>|=]?[biuf]([1248])")
_NUMBERS_V3 = re.compile(r"(?:u?int|float)(8|16|32|64)|bool")


def check_zarr(path: Path) -> None:
    """Checks the metadata of the OME-Zarr image in a folder: the group's, and that of the arrays that it names.

    Formats 2 and 3 of Zarr are read, and both where a folder has both. A group without an image passes.

    Raises:
        CellSegError: the metadata is not JSON, names a codec or a type that is not allowed, or a path out of the
            folder, or has sides that are not whole numbers above 0.
    """
    for attributes in _group_attributes(path):
        for name in _array_paths(attributes):
            folder = _inside(path, name)
            for file, check in ((".zarray", _check_array_v2), ("zarr.json", _check_array_v3)):
                if (folder / file).is_file():
                    try:
                        check(read_json(folder / file))
                    except (ValueError, TypeError, KeyError, AttributeError) as error:
                        raise CellSegError(f"{folder / file}: is not opened: {error}") from error


def _group_attributes(path: Path) -> Iterator[dict[str, Any]]:
    if (path / ".zattrs").is_file():
        yield _mapping(path / ".zattrs", read_json(path / ".zattrs"))
    if (path / "zarr.json").is_file():
        content = _mapping(path / "zarr.json", read_json(path / "zarr.json"))
        yield _mapping(path / "zarr.json", content.get("attributes", {}))


def _mapping(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise CellSegError(f"{path}: is no metadata of Zarr (it is no JSON object)")
    return content


def _array_paths(attributes: dict[str, Any]) -> Iterator[Any]:
    """The paths of all resolutions of all images, relative to the group; OME-NGFF 0.5 keeps them one level down."""
    for holder in (attributes, attributes.get("ome")):
        images = holder.get("multiscales") if isinstance(holder, dict) else None
        for image in images if isinstance(images, list) else ():
            datasets = image.get("datasets") if isinstance(image, dict) else None
            for dataset in datasets if isinstance(datasets, list) else ():
                if isinstance(dataset, dict):
                    yield dataset.get("path")


def _inside(root: Path, name: Any) -> Path:
    """The folder of an array, with links resolved; it lies below the group's folder.

    Raises:
        CellSegError: it does not.
    """
    parts = name.split("/") if isinstance(name, str) else []
    plain = bool(parts) and all(part not in ("", ".", "..") and not set(part) & set(":\\\0") for part in parts)
    folder = root.joinpath(*parts) if plain else root
    if not plain or not folder.resolve().is_relative_to(root.resolve()):
        raise CellSegError(f"{root}: names an array outside its own folder ({str(name)[:80]!r}), which is not opened")
    return folder


def _check_array_v2(metadata: Any) -> None:
    number = _NUMBERS_V2.fullmatch(str(metadata["dtype"]))
    if number is None:
        raise ValueError(f"its dtype is {str(metadata['dtype'])[:40]!r}; images are numbers")
    _check_sizes(metadata["shape"], metadata["chunks"], int(number[1]))
    codecs = [metadata.get("compressor"), *(metadata.get("filters") or [])]
    _check_codecs(codec["id"] for codec in codecs if codec is not None)


def _check_array_v3(metadata: Any) -> None:
    kind = metadata["data_type"]
    number = _NUMBERS_V3.fullmatch(kind) if isinstance(kind, str) else None
    if number is None:
        raise ValueError(f"its data type is {str(kind)[:40]!r}; images are numbers")
    if metadata.get("storage_transformers"):
        raise ValueError("it has storage transformers, which no image needs")
    chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    _check_sizes(metadata["shape"], chunks, int(number[1] or 8) // 8)
    _check_codecs(_codec_names(metadata["codecs"]))


def _codec_names(codecs: Any) -> Iterator[Any]:
    """The names of codecs and of those inside them: shards have codecs for their chunks and for their index."""
    for codec in codecs:
        name = codec if isinstance(codec, str) else codec["name"]
        yield name.removeprefix("numcodecs.") if isinstance(name, str) else name
        configuration = {} if isinstance(codec, str) else codec.get("configuration") or {}
        for inner in ("codecs", "index_codecs"):
            yield from _codec_names(configuration.get(inner, ()))


def _check_codecs(names: Iterable[Any]) -> None:
    for name in names:
        if name not in CODECS:
            raise ValueError(f"its codec {str(name)[:40]!r} is not among those of images; save it with blosc or zstd")


def _check_sizes(shape: Any, chunks: Any, item_size: int) -> None:
    for what, sides in (("shape", shape), ("chunk shape", chunks)):
        if not isinstance(sides, list) or not sides or any(type(side) is not int or side < 1 for side in sides):
            raise ValueError(f"its {what} is {str(sides)[:60]}; write whole numbers above 0")
    if len(shape) != len(chunks):
        raise ValueError(f"its shape has {len(shape)} sides, its chunks {len(chunks)}")
    size = item_size
    for side in chunks:
        size *= side
    if size > LARGEST_CHUNK:
        raise ValueError(f"a chunk has {size} bytes, over the limit of {LARGEST_CHUNK}; save it in smaller chunks")
