"""Which channels of an image are read, and what its file calls them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellseg_d2.errors import CellSegError, counted

MOST_DIGITS = 6
"""Of a channel's number."""

RGB_NAMES = ("red", "green", "blue", "alpha")


@dataclass(frozen=True)
class PixelRule:
    """How a file's pixels become 8-bit channels.

    Attributes:
        intensity: how those that are not 8 bit are scaled, see :class:`cellseg_d2.images.intensity.IntensityRule`; for
            a range per channel, ``range:0,4000/0,800``.
        channels: which channels of the file, in this order: names of the file, or numbers from 0. Each is scaled by
            itself. Empty for RGB, as :func:`cellseg_d2.images.tiff.read_image` makes it.
    """

    intensity: str
    channels: tuple[str, ...] = ()

    @classmethod
    def of(cls, rule: Rule) -> PixelRule:
        """The same; a text is an intensity rule for RGB."""
        return cls(rule) if isinstance(rule, str) else rule


Rule = str | PixelRule
"""An intensity rule for RGB, or a :class:`PixelRule`."""


@dataclass(frozen=True)
class Channels:
    """The channels of images in memory, and how people see them.

    Attributes:
        names: one per channel, as in :class:`PixelRule`; empty for RGB.
        shown: up to three of them that a picture shows as red, green and blue; empty for the first three. One is grey.
    """

    names: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    def picture(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An (H, W, C) image as (H, W, 3) RGB."""
        if not self.names:
            return image
        places = [self.names.index(name) for name in self.shown or self.names[:3]]
        if len(places) == 1:
            return np.ascontiguousarray(np.broadcast_to(image[..., places], (*image.shape[:2], 3)))
        picture = np.zeros((*image.shape[:2], 3), np.uint8)
        picture[..., : len(places)] = image[..., places]
        return picture

    def titles(self) -> dict[str, int]:
        """What tables call the channels -> their places; one that is there twice has the first."""
        names = self.names or RGB_NAMES[:3]
        titles = [f"channel_{name}" if name.isdecimal() else name for name in names]
        return {title: titles.index(title) for title in titles}


def as_picture(image: NDArray[np.uint8], rule: Rule) -> NDArray[np.uint8]:
    """An image that was read by a rule as (H, W, 3) RGB; of its channels the first three."""
    return Channels(PixelRule.of(rule).channels).picture(image)


def pick(path: Path | str, wanted: Sequence[str], names: Sequence[str], count: int) -> tuple[int, ...]:
    """The places of channels in a file.

    Args:
        path: the file, for messages.
        wanted: names, or numbers from 0; what is a name in the file counts as a name.
        names: the channels' names in the file, those behind ``count`` do not count; empty where it states none.
        count: how many channels it has.

    Raises:
        CellSegError: one is not there, or its name is that of two channels.
    """
    places, names = [], names[:count]
    for channel in wanted:
        named = [place for place, name in enumerate(names) if name == channel]
        if len(named) > 1:
            raise CellSegError(f"{path}: has {len(named)} channels called {channel!r}; give their numbers, from 0 on")
        number = int(channel) if channel.isdecimal() and len(channel) <= MOST_DIGITS else count
        if not named and number >= count:
            known = f" ({', '.join(names)})" if any(names) else ""
            raise CellSegError(
                f"{path}: has {counted(count, 'channel')}{known}, but no channel {channel!r}, one of the {len(wanted)} "
                f"that are wanted ({', '.join(wanted)}; numbers count from 0); give images that have it, or others "
                "with --channels"
            )
        places += named or [number]
    return tuple(places)


def picked_of_rgb(path: Path | str, image: NDArray[np.uint8], rule: Rule) -> NDArray[np.uint8]:
    """The channels of an (H, W, 3) RGB image that a rule wants, (H, W, C); all of them where it names none.

    Raises:
        CellSegError: a channel is not there.
    """
    wanted = PixelRule.of(rule).channels
    if not wanted:
        return image
    return np.ascontiguousarray(image[..., list(pick(path, wanted, RGB_NAMES[:3], image.shape[2]))])


def tiff_channel_names(file: tifffile.TiffFile, series: Any) -> tuple[str, ...]:
    """The names of a TIFF's channels: OME's, the labels of ImageJ's slices, or colours; empty where it states none."""
    page = series.keyframe
    if file.pages.first.is_ome:
        return ome_xml_channel_names(file.pages.first.description)
    if file.is_imagej and file.imagej_metadata and (labels := file.imagej_metadata.get("Labels")):
        return (labels,) if isinstance(labels, str) else tuple(map(str, labels))
    return RGB_NAMES if page.photometric == tifffile.PHOTOMETRIC.RGB else ()


def ome_xml_channel_names(xml: str) -> tuple[str, ...]:
    """The names of the first image's channels; an empty one where a channel has none.

    https://docs.openmicroscopy.org/ome-model/6.3.1/developers/ome-units.html
    """
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, LookupError, ValueError):  # an unknown encoding is a LookupError
        return ()
    pixels = next((element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"), None)
    channels = [] if pixels is None else [part for part in pixels if part.tag.rpartition("}")[2] == "Channel"]
    if [channel.get("SamplesPerPixel") for channel in channels] in (["3"], ["4"]):
        return RGB_NAMES
    return tuple(channel.get("Name", "") for channel in channels)


def ome_zarr_channel_names(attributes: Any) -> tuple[str, ...]:
    """The labels of an OME-Zarr image's channels, https://ngff.openmicroscopy.org/0.4/#omero-md."""
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list):
        return ()
    return tuple(str(channel.get("label", "")) if isinstance(channel, dict) else "" for channel in channels)
