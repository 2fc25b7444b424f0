"""Files that are read window by window: tiled and striped TIFF, OME-Zarr, and slides through tiffslide."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import RGB_NAMES, ome_zarr_channel_names, tiff_channel_names
from cellseg_d2.images.pixel_size import COARSEST_UM, PixelSize, ome_zarr_pixel_size, stated, tiff_pixel_size
from cellseg_d2.images.planes import Plane
from cellseg_d2.images.tiff import check_file, damage_reported, only_image, photometric
from cellseg_d2.images.tiff_header import open_tiff, orientation
from cellseg_d2.images.tiff_tiles import TiledPage
from cellseg_d2.images.zarr_metadata import check_zarr

WHOLE_BYTES = 2**26
"""TIFFs that decode to no more than this are decoded at once, which is faster than by windows."""

CHUNK_BYTES = 2**28
"""TIFFs with a strip or tile that decodes to more than this are decoded at once: each window would take that much."""

BLOCK_SIDE = 256
"""Chunks with shorter sides are read several at a time."""

BLOCK_PIXELS = 2**20
"""Strips, which are as wide as the image, are read several at a time, up to this number of pixels."""

UNCHUNKED = (1024, 1024)
"""(height, width) of the blocks that are read from formats that have no chunks, or do not state them."""

ZARR_2 = int(zarr.__version__.split(".")[0]) < 3
"""Whether the installed zarr reads format 2 only."""

Wanted = Sequence[str] | None
"""The channels to read, see :meth:`cellseg_d2.images.planes.Plane.of`."""

SLIDE_SUFFIXES = (".svs", ".ndpi", ".scn")
"""Whole-slide formats that tiffslide reads and that tifffile alone understands only in part."""


@dataclass(frozen=True)
class PixelSource:
    """Pixels that are read by windows, and what the file states about them.

    Attributes:
        array: anything that can be sliced as a numpy array, of ``plane.shape``.
        plane: where the image is in the array.
        block: (height, width) of the blocks to read, a multiple of the file's chunks; blocks begin at its multiples.
        pixel_size_um: (x, y) in microns; None where the file states none.
        kind: the kind of file with its article, such as "a TIFF", for messages.
        open_files: what to close when the source is no longer needed.
    """

    array: Any
    plane: Plane
    block: tuple[int, int]
    pixel_size_um: PixelSize | None
    kind: str
    open_files: ExitStack


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr group rather than one that holds images."""
    return path.is_dir() and (
        path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in (".zgroup", "zarr.json"))
    )


def is_slide(path: Path) -> bool:
    """Whether a file is of a whole-slide format, by its suffix."""
    return path.suffix.lower() in SLIDE_SUFFIXES


def tiff_source(path: Path, wanted: Wanted = ()) -> PixelSource | None:
    """Opens a TIFF to read it by windows, a pyramid at full resolution; None for one that is better decoded at once.

    Uncompressed files are mapped into memory, tiles are decoded one by one, others are read with tifffile's Zarr view.

    Raises:
        CellSegError: as :func:`cellseg_d2.images.tiff.read_image`, except that no file is too large.
    """
    check_file(path)
    with damage_reported(path, "a TIFF"), ExitStack() as stack:
        file = stack.enter_context(open_tiff(path))
        series = only_image(path, file, None)
        page = series.keyframe
        names = tiff_channel_names(file, series)
        plane = Plane.of(path, series.axes, series.shape, photometric(page), orientation(page), wanted, names)
        if int(np.prod(series.shape, dtype=object)) * series.dtype.itemsize <= WHOLE_BYTES:
            return None
        array: Any
        block = UNCHUNKED
        if page.is_memmappable and series.dataoffset is not None:
            kind = file.byteorder + series.dtype.char
            array = np.memmap(path, kind, mode="r", offset=series.dataoffset, shape=series.shape)
        else:
            if TiledPage.fits(series):
                array = TiledPage(page)
            else:
                store = stack.enter_context(series.aszarr(level=0))
                array = zarr.open(store, mode="r")
            if int(np.prod(array.chunks, dtype=object)) * series.dtype.itemsize > CHUNK_BYTES:
                return None
            block = _block(plane, array.chunks)
        size = tiff_pixel_size(file, page)
        return PixelSource(array, plane, block, size, "a TIFF", stack.pop_all())


def zarr_source(path: Path, wanted: Wanted = ()) -> PixelSource:
    """Opens an OME-Zarr image at full resolution: OME-NGFF up to 0.4, with zarr 3 also 0.5.

    https://ngff.openmicroscopy.org/0.4/#multiscale-md

    Raises:
        CellSegError: it is no OME-Zarr image, it is damaged, or it has pages or channels that no RGB image has.
    """
    if ZARR_2 and (path / "zarr.json").is_file():
        raise CellSegError(f"{path}: is of Zarr's format 3; install zarr 3 or save it as OME-Zarr 0.4")
    check_zarr(path)
    with damage_reported(path, "an OME-Zarr image"):
        # not consolidated metadata: that is a second copy, which check_zarr has not checked
        options = {} if ZARR_2 else {"use_consolidated": False}
        group = zarr.open_group(str(path), mode="r", **options)
        attributes = dict(group.attrs)
        attributes = attributes.get("ome", attributes)  # OME-NGFF 0.5 keeps them one level down
        image = _multiscales(attributes)
        if image is None:
            raise CellSegError(f"{path}: is no OME-Zarr image (it has no multiscales); give the folder of one image")
        array = group[image["datasets"][0]["path"]]
        axes = image.get("axes") or list("tczyx")[-array.ndim :]  # before 0.3 the axes were always these five
        letters, names = "".join(_letter(axis) for axis in axes), ome_zarr_channel_names(attributes)
        plane = Plane.of(path, letters, array.shape, "MINISBLACK", wanted=wanted, names=names)
        return PixelSource(
            array,
            plane,
            _block(plane, array.chunks),
            ome_zarr_pixel_size(image, axes),
            "an OME-Zarr image",
            ExitStack(),
        )


def _multiscales(attributes: dict[str, Any]) -> dict[str, Any] | None:
    """The first image of a group's attributes."""
    images = attributes.get("multiscales")
    return images[0] if images else None


def _letter(axis: Any) -> str:
    """The letter that tifffile uses for an axis of OME-NGFF, which has a name and a type, but only a name in 0.3."""
    name, kind = (axis["name"], axis.get("type")) if isinstance(axis, dict) else (axis, None)
    return "C" if kind == "channel" else str(name)[:1].upper()


def tiffslide_missing() -> str | None:
    """Why slides cannot be read, with the fix; None where they can be."""
    try:
        import tiffslide  # noqa: F401  # an extra, and slow to import
    except ImportError as error:
        return f"needs tiffslide ({error}); pip install 'cellseg_d2[slides]'"
    return None


def slide_source(path: Path, wanted: Wanted = ()) -> PixelSource:
    """Opens a whole slide at full resolution, with tiffslide.

    Raises:
        CellSegError: tiffslide is not installed, or cannot read it.
    """
    check_file(path)
    missing = tiffslide_missing()
    if missing:
        raise CellSegError(f"{path}: {missing}")
    import tiffslide

    with damage_reported(path, "a slide"), ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about metadata that is not used here
        slide = stack.enter_context(tiffslide.TiffSlide(path))
        array = _SlideArray(slide)
        names, photometric_name = (RGB_NAMES, "RGB") if array.shape[2] >= 3 else ((), "MINISBLACK")
        plane = Plane.of(path, "YXS", array.shape, photometric_name, wanted=wanted, names=names)
        properties = slide.properties
        tile = [int(properties.get(f"tiffslide.level[0].tile-{side}") or 0) for side in ("height", "width")]
        block = _block(plane, (*tile, array.shape[2])) if all(tile) else UNCHUNKED
        microns = properties.get("tiffslide.mpp-x"), properties.get("tiffslide.mpp-y")
        return PixelSource(array, plane, block, stated(*microns, COARSEST_UM), "a slide", stack.pop_all())


class _SlideArray:
    """A slide's full resolution, which can be sliced as an array (height, width, samples)."""

    def __init__(self, slide: Any) -> None:
        self._slide = slide
        width, height = slide.dimensions
        self.shape = (height, width, slide.read_region((0, 0), 0, (1, 1), as_array=True).shape[2])

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        rows, columns = index[:2]
        size = columns.stop - columns.start, rows.stop - rows.start
        pixels: NDArray[Any] = self._slide.read_region((columns.start, rows.start), 0, size, as_array=True)
        whole: tuple[Any, ...] = (slice(None), slice(None))
        rest: NDArray[Any] = pixels[whole + index[2:]]
        return rest


def _block(plane: Plane, chunks: tuple[int, ...]) -> tuple[int, int]:
    """The size of a block of several chunks, large enough to be worth the overhead of reading it."""
    height, width = chunks[plane.y], chunks[plane.x]
    width *= max(1, BLOCK_SIDE // width)
    height *= max(1, min(BLOCK_SIDE // height, BLOCK_PIXELS // (width * height)))
    return height, width
