"""Which file format tiles are best kept in: size, time to write, and time to read as training does."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from benchmarks.table import Table, number
from benchmarks.timing import time_in_turn
from cellseg_d2.annotations.class_tiffs import find_samples
from cellseg_d2.cells.tiling import tile_windows
from cellseg_d2.conversion.convert import encode_png
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.images.tiff import read_image

Tile = NDArray[np.uint8]


@dataclass(frozen=True)
class TileFormat:
    """One way to keep a tile.

    Attributes:
        suffix: the files' suffix.
        encode: (H, W, 3) uint8 RGB -> the file's bytes.
        decode: path -> the same array, by the fastest reader at hand.
    """

    suffix: str
    encode: Callable[[Tile], bytes]
    decode: Callable[[Path], Tile]


def _by_opencv(suffix: str, *settings: int) -> TileFormat:
    def encode(tile: Tile) -> bytes:
        _, data = cv2.imencode(suffix, tile[..., ::-1], settings)
        return bytes(data.tobytes())

    def decode(path: Path) -> Tile:
        return np.asarray(cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)

    return TileFormat(suffix, encode, decode)


def _tiff(**settings: Any) -> TileFormat:
    def encode(tile: Tile) -> bytes:
        file = io.BytesIO()
        tifffile.imwrite(file, tile, photometric="rgb", **settings)
        return file.getvalue()

    return TileFormat(".tif", encode, tifffile.imread)


def _npy(tile: Tile) -> bytes:
    file = io.BytesIO()
    np.save(file, tile)
    return file.getvalue()


FORMATS = {
    "PNG of the converter": TileFormat(".png", encode_png, _by_opencv(".png").decode),
    **{f"PNG level {level}": _by_opencv(".png", cv2.IMWRITE_PNG_COMPRESSION, level) for level in (0, 1, 6, 9)},
    **{
        f"PNG level 1, {name}": _by_opencv(".png", cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, strategy)
        for name, strategy in (
            ("run lengths", cv2.IMWRITE_PNG_STRATEGY_RLE),
            ("filtered", cv2.IMWRITE_PNG_STRATEGY_FILTERED),
            ("Huffman only", cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
        )
    },
    "TIFF": _tiff(),
    "TIFF LZW": _tiff(compression="lzw", predictor=True),
    "TIFF deflate": _tiff(compression="zlib", compressionargs={"level": 1}, predictor=True),
    "TIFF zstd": _tiff(compression="zstd", compressionargs={"level": 1}, predictor=True),
    "WebP lossless": _by_opencv(".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
    "npy": TileFormat(".npy", _npy, np.load),
}
"""By name. Compressed TIFFs have the horizontal predictor, which PNG's filters are."""


def compare_formats(
    data: Path, dense: Path, folder: Path, tiles: int, repeats: int, clock: Callable[[], float]
) -> list[Table]:
    """One table for the tiles of real data, one for those of drawn H&E-like images.

    Args:
        data: real data in the input layout.
        dense: drawn images in the same.
        folder: to write into.
        tiles: how many tiles of each at the most.
        repeats: timed runs.
        clock: what tells the seconds.
    """
    inputs = {"the data's tiles": data, "H&E-like tiles": dense}
    return [
        _compare(name, _tiles(root, tiles), folder / str(place), repeats, clock)
        for place, (name, root) in enumerate(inputs.items())
    ]


def _tiles(root: Path, count: int) -> list[Tile]:
    options = ConvertOptions()
    tiles: list[Tile] = []
    for sample in find_samples(root)[0]:
        if len(tiles) < count:
            image = read_image(sample.image)
            height, width = image.shape[:2]
            windows = tile_windows(height, width, options.tile_size, options.overlap)
            tiles += [np.ascontiguousarray(image[y0:y1, x0:x1]) for x0, y0, x1, y1 in windows]
    return tiles[:count]


def _compare(name: str, tiles: Sequence[Tile], folder: Path, repeats: int, clock: Callable[[], float]) -> Table:
    megapixels = sum(tile.shape[0] * tile.shape[1] for tile in tiles) / 1e6
    paths, writes, reads, loads = {}, {}, {}, {}
    for place, (kind, form) in enumerate(FORMATS.items()):
        own = folder / str(place)
        own.mkdir(parents=True)
        paths[kind] = [own / f"{number}{form.suffix}" for number in range(len(tiles))]
        writes[kind] = partial(_write, form, tiles, paths[kind])
        writes[kind]()
        reads[kind] = partial(_read, form.decode, paths[kind])
        if _is_same(form.decode, paths[kind], tiles, kind) and _detectron2_reads(paths[kind][0]):
            loads[kind] = partial(_read, read_as_training, paths[kind])
    written = time_in_turn(writes, repeats, warm_up=False, clock=clock)
    read, loaded = (time_in_turn(works, repeats, clock=clock) for works in (reads, loads))
    rows = []
    for kind in FORMATS:
        size = sum(path.stat().st_size for path in paths[kind]) / sum(tile.nbytes for tile in tiles)
        training = number(1000 * loaded[kind].best / megapixels) if kind in loaded else "-"
        times = [number(1000 * took.best / megapixels) for took in (written[kind], read[kind])]
        rows.append([kind, f"{size:.3f}", times[0], training, times[1]])
    text = (
        f"{len(tiles)} tiles, {megapixels:.1f} megapixels; milliseconds a megapixel. Read in training: "
        "`detectron2.data.detection_utils.read_image`; other reader: OpenCV, tifffile or NumPy."
    )
    columns = ["format", "size / raw", "write", "read in training", "other reader"]
    return Table(f"Tile format: {name}", text, columns, rows)


def _write(form: TileFormat, tiles: Sequence[Tile], paths: Sequence[Path]) -> None:
    for tile, path in zip(tiles, paths):
        path.write_bytes(form.encode(tile))


def _read(decode: Callable[[Path], Tile], paths: Sequence[Path]) -> None:
    for path in paths:
        decode(path)


def _is_same(decode: Callable[[Path], Tile], paths: Sequence[Path], tiles: Sequence[Tile], kind: str) -> bool:
    if not all(np.array_equal(decode(path), tile) for path, tile in zip(paths, tiles)):
        raise RuntimeError(f"{kind} is not lossless")
    return True


def read_as_training(path: Path) -> Tile:
    """What the mapper calls for a tile."""
    from detectron2.data.detection_utils import read_image as read  # torch, which nothing else here needs

    tile: Tile = read(str(path), format="RGB")
    return tile


def _detectron2_reads(path: Path) -> bool:
    """Whether Detectron2, which reads by Pillow, knows a format."""
    try:
        with Image.open(path) as image:
            image.load()
    except (UnidentifiedImageError, OSError):
        return False
    return True
