"""Reads any scientific TIFF as (H, W, 3) uint8 RGB or as (H, W) int32 labels."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.images.channels import PixelRule, Rule, tiff_channel_names
from cellseg_d2.images.intensity import as_8_bit
from cellseg_d2.images.memory import IN_PARTS, check_memory
from cellseg_d2.images.planes import Plane, Turn, describe_axes, describe_shape, flipped, is_opaque
from cellseg_d2.images.stated import NOT_STATED, Stated, tiff_stated
from cellseg_d2.images.tiff_header import check_lossless, check_segments, open_tiff, orientation

logger = logging.getLogger(__name__)

INTENSITY_RULE = "percentile:0.1,99.9"
"""The default rule by which images that are not 8 bit are scaled to 8 bit, as a whole; `config.py` has a copy."""

MAX_PIXELS = 2**31
"""Images whose header declares more pixels are refused before memory is taken."""

JPEG = tuple(tifffile.COMPRESSION[name] for name in ("OJPEG", "JPEG", "JPEG_LOSSY", "ALT_JPEG"))
"""Compressions whose YCbCr colours tifffile converts to RGB."""


@dataclass(frozen=True)
class Raw:
    """Pixels, and what the file states about them.

    Attributes:
        pixels: an array of any shape and type.
        axes: tifffile's letters, one per axis.
        photometric: what the values mean, by tifffile's name; RGB where its decoder has converted them.
        alpha: whether the file states that the last sample is an alpha channel.
        turn: what turns the pixels upright.
        names: the channels' names; empty where the file states none.
        stated: what else the header of an image states; nothing for a label map.
    """

    pixels: NDArray[Any]
    axes: str
    photometric: str
    alpha: bool
    turn: Turn
    names: tuple[str, ...] = ()
    stated: Stated = NOT_STATED


def read_image(path: str | Path, rule: Rule = INTENSITY_RULE, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Reads a microscopy image as RGB, or the channels of it that a rule names.

    Grey images become three equal channels. The alpha of RGBA is dropped, with a warning if it is not opaque. Bilevel,
    16-bit and float images are scaled by ``rule``. A min-is-white image is inverted. Three fluorescence channels become
    red, green and blue in the order of the file. Four are refused, since it is not known which to drop.

    Args:
        path: a TIFF file.
        rule: see :class:`cellseg_d2.images.channels.PixelRule`.
        max_pixels: images that declare more are refused from the header.

    Returns:
        (H, W, 3) uint8; (H, W, C) where the rule names C channels.

    Raises:
        CellSegError: missing, not a TIFF, truncated, too large, with pages or channels that no RGB image has, or of
            another colour space.
    """
    return read_image_with_header(path, rule, max_pixels)[0]


def read_image_with_header(
    path: str | Path, rule: Rule = INTENSITY_RULE, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.uint8], Stated]:
    """As :func:`read_image`, with what the header states; the file is opened once for both."""
    path = Path(path)
    raw, wanted = read_raw(path, max_pixels), PixelRule.of(rule)
    plane = Plane.of(path, raw.axes, raw.pixels.shape, raw.photometric, raw.turn, wanted.channels, raw.names)
    height, width = plane.size
    pixels, opaque = plane.colours(plane.cut(raw.pixels, (0, 0, width, height)))
    if not opaque:
        warn_of_alpha(path)
    image = plane.rgb(as_8_bit(pixels, wanted))
    return np.ascontiguousarray(np.broadcast_to(image, (height, width, plane.channel_count))), raw.stated


def warn_of_alpha(path: Path) -> None:
    """Warns that an image loses an alpha channel that is not opaque everywhere."""
    logger.warning("%s: its alpha channel is not opaque everywhere; it is dropped", path)


def read_label_map(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.int32]:
    """Reads an instance-label image: 0 is background, each other value is one cell.

    The type is any integer, or a float with whole numbers; with a colour palette the indices are the ids. A leading,
    trailing or repeated channel axis is dropped, and so is the opaque alpha of RGBA. A first axis of another kind
    (``Q``, ``Z``) with at most four equal planes counts as a repeated channel axis. Ids that do not fit into 31 bits
    are renumbered, so that no cell is lost.

    Args:
        path: a TIFF file.
        max_pixels: label maps that declare more pixels are refused from the header.

    Returns:
        (H, W) int32, values >= 0.

    Raises:
        CellSegError: missing, not a TIFF, truncated, too large, not two-dimensional, or with values that are negative,
            fractional or not finite.
    """
    raw = read_raw(Path(path), max_pixels, is_label_map=True)
    pixels, axes = _drop_singletons(raw)
    if pixels.ndim == 3:
        axis = next((axis for axis in "SC" if axis in axes), axes[0])
        planes = np.moveaxis(pixels, axes.index(axis), 0)
        if axis == "S" and raw.alpha and len(planes) == 4 and is_opaque(planes[3]):
            planes = planes[:3]
        if axis in "SC" or (axis not in "YX" and len(planes) <= 4):  # real z-stacks usually have more planes
            if (planes == planes[0]).all():
                pixels, axes = planes[0], axes.replace(axis, "", 1)
            elif axis in "SC":
                raise CellSegError(f"{path}: its channels differ, so it is no label map; save one value a cell")
    if pixels.ndim != 2:
        raise CellSegError(
            f"{path}: has the axes {describe_axes(raw.axes, raw.pixels.shape)}, a label map has one plane; "
            "save it as (height, width)"
        )
    return as_labels(path, upright(pixels, axes, raw.turn))


def as_labels(path: str | Path, pixels: NDArray[Any]) -> NDArray[np.int32]:
    """An array that a file holds as labels, see :func:`read_label_map`.

    Raises:
        CellSegError: with the path, where values are negative, fractional or not finite.
    """
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and (pixels == np.rint(pixels)).all()):
            raise CellSegError(f"{path}: holds fractions or NaN, so it is no label map; save whole numbers")
    elif pixels.dtype.kind not in "iub":
        raise CellSegError(f"{path}: holds {pixels.dtype} values; save whole numbers")
    if pixels.dtype.kind in "if" and pixels.size and int(pixels.min()) < 0:
        raise CellSegError(f"{path}: holds negative labels; use 0 for background and positive numbers for cells")
    wide = pixels.dtype.itemsize >= 4 and pixels.size  # narrower types need no look
    if wide and int(pixels.max()) > np.iinfo(np.int32).max:  # int: numpy 2 compares in the type of the pixels
        values, inverse = np.unique(pixels, return_inverse=True)
        pixels = inverse.reshape(pixels.shape) + (0 if values[0] == 0 else 1)
    return np.ascontiguousarray(pixels, np.int32)


def read_raw(path: Path, max_pixels: int, is_label_map: bool = False) -> Raw:
    """The pixels of a TIFF as they are stored.

    Args:
        path: the file.
        max_pixels: files that declare more are refused from the header.
        is_label_map: refuse what may have changed ids: lossy compression, and strips that are left out.

    Raises:
        CellSegError: missing, damaged, too large, or refused.
    """
    with opened(path) as file:
        series = only_image(path, file, max_pixels, is_label_map)
        page = series.keyframe
        if is_label_map:
            check_lossless(path, file, page)
        values = math.prod(series.shape)
        rest = np.dtype(np.int32).itemsize * values if is_label_map else 3 * values  # ids, or RGB of a grey image
        check_memory(path, describe_shape(series.shape), values * series.dtype.itemsize + rest)
        names = () if is_label_map else tiff_channel_names(file, series)
        stated = NOT_STATED if is_label_map else tiff_stated(file, series)
        return Raw(series.asarray(), series.axes, photometric(page), _has_alpha(page), orientation(page), names, stated)


def upright(pixels: NDArray[Any], axes: str, turn: Turn) -> NDArray[Any]:
    """One plane with its rows first, turned as :class:`Plane` turns images."""
    transposed, *flips = turn
    rows_last = axes == "XY"
    return flipped(pixels.T if rows_last != transposed else pixels, flips)


@contextmanager
def opened(path: Path) -> Iterator[tifffile.TiffFile]:
    """Opens a TIFF; errors while it is open are reported as by :func:`damage_reported`.

    Raises:
        CellSegError: missing, empty, or not readable.
    """
    check_file(path)
    with damage_reported(path, "a TIFF"), open_tiff(path) as file:
        yield file


def check_file(path: Path) -> None:
    """Checks that a path is a file with bytes in it.

    Raises:
        CellSegError: it is not.
    """
    if not path.is_file():
        raise CellSegError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise CellSegError(f"{path}: is empty (0 bytes); export it again")


@contextmanager
def damage_reported(path: Path, kind: str) -> Iterator[None]:
    """Turns every exception of a decoder into a one-line error, and silences tifffile's log.

    Args:
        path: the file.
        kind: what it should be, with its article.

    Raises:
        CellSegError: instead of any other exception.
    """
    log = logging.getLogger("tifffile")
    before, log.disabled = log.disabled, True
    try:
        yield
    except CellSegError:
        raise
    except MemoryError as error:
        raise CellSegError(f"{path}: does not fit into memory; {IN_PARTS}") from error
    except Exception as error:  # anything from struct.error to the decoders' special types
        raise CellSegError(f"{path}: cannot be read as {kind} ({one_line(error)}); export it again") from error
    finally:
        log.disabled = before


def only_image(path: Path, file: tifffile.TiffFile, max_pixels: int | None, is_label_map: bool = False) -> Any:
    """The file's first series (tifffile's word for an image with its pyramid), checked from the header alone.

    Args:
        path: for messages.
        file: the same file, open.
        max_pixels: images that declare more are refused; None where only windows are read.
        is_label_map: whether no strip or tile may be left out.

    Raises:
        CellSegError: too large, truncated, of no type of numbers, or beside another one of the same size.
    """
    images = file.series
    series = images[0]
    page = series.keyframe
    if page.dtype is None:
        kind = f"{page.bitspersample} bits per sample of the sample format {page.sampleformat}"
        raise CellSegError(f"{path}: has {kind}, which cannot be read; export it again")
    if 0 in series.shape:
        raise CellSegError(f"{path}: is {describe_shape(series.shape)}, without a pixel; export it again")
    sides = [side for side, axis in zip(series.shape, series.axes) if axis not in "SC" or side > 4]  # not channels
    if max_pixels is not None and math.prod(sides) > max_pixels:
        raise CellSegError(f"{path}: declares {describe_shape(series.shape)}, over the limit of {max_pixels} pixels")
    pages = sum(other.shape == series.shape for other in images)  # a smaller one is a preview or a label
    if pages > 1:
        raise CellSegError(f"{path}: holds {pages} images of {describe_shape(series.shape)}; save one plane")
    end = max(map(sum, zip(page.dataoffsets, page.databytecounts)), default=0)
    if end > file.filehandle.size:  # some decoders make up the missing part, others allocate memory for it first
        raise CellSegError(f"{path}: ends after {file.filehandle.size} of {end} bytes; copy or export it again")
    check_segments(path, series, is_label_map)
    return series


def photometric(page: Any) -> str:
    """What a decoded page's values mean, by tifffile's name, or as a number where tifffile has no name."""
    name = str(getattr(page.photometric, "name", page.photometric))
    converted = page.planarconfig == tifffile.PLANARCONFIG.CONTIG and not page.extrasamples
    if name == "YCBCR" and converted and page.compression in JPEG:
        return "RGB"
    return name


def _has_alpha(page: Any) -> bool:
    return bool(page.extrasamples) and page.extrasamples[-1] in (
        tifffile.EXTRASAMPLE.ASSOCALPHA,
        tifffile.EXTRASAMPLE.UNASSALPHA,
    )


def _drop_singletons(raw: Raw) -> tuple[NDArray[Any], str]:
    """Removes axes of length 1, except for the last two spatial ones."""
    keep = [number for number, axis in enumerate(raw.axes) if axis in "YX" or raw.pixels.shape[number] > 1]
    return raw.pixels.reshape([raw.pixels.shape[number] for number in keep]), "".join(raw.axes[n] for n in keep)
