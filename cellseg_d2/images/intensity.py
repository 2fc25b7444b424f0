"""How intensities that are not 8 bit become 0..255."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.errors import CellSegError, counted
from cellseg_d2.images.channels import PixelRule, Rule
from cellseg_d2.images.percentiles import Blocks, percentiles

BAND_PIXELS = 2**20
"""Pixels whose values are counted at once for percentiles."""

BETWEEN_CHANNELS = "/"
"""Stands between the ranges of a rule that has one per channel."""


@dataclass(frozen=True)
class IntensityRule:
    """A rule by which 16-bit and float images are scaled to 0..255; 8-bit images are never changed.

    Attributes:
        kind: ``percentile`` (low and high are percentiles of all values of the image, one range for all channels, as in
            the auto-contrast of ImageJ and napari) or ``range`` (low and high are intensities, the same for all
            images).
        low: becomes 0, and so does everything below.
        high: becomes 255, and so does everything above.
    """

    kind: str
    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> IntensityRule:
        """Reads ``percentile:LOW,HIGH`` or ``range:LOW,HIGH``.

        Raises:
            CellSegError: the text is of another form, or LOW is not below HIGH.

        >>> IntensityRule.parse("range:0,4095")
        IntensityRule(kind='range', low=0.0, high=4095.0)
        """
        kind, _, numbers = text.partition(":")
        try:
            low, high = (float(number) for number in numbers.split(","))
        except ValueError:
            low = high = float("nan")
        limits = (0.0, 100.0) if kind == "percentile" else (-np.inf, np.inf)
        if kind not in ("percentile", "range") or not limits[0] <= low < high <= limits[1]:
            raise CellSegError(
                f"intensity rule {text!r} is not understood; write 'percentile:0.1,99.9' or 'range:0,65535'"
            )
        return cls(kind, low, high)

    def apply(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """Scales an array of any shape and real type to uint8; a constant image becomes 0."""
        if image.dtype == np.uint8:
            return image
        flat = image.reshape(-1)
        bands = [slice(first, first + BAND_PIXELS) for first in range(0, flat.size, BAND_PIXELS)]
        limits = self.limits(lambda: (flat[band] for band in bands), flat.size)
        scaled = np.empty(flat.shape, np.uint8)
        for band in bands:  # in bands, since scaling takes several times the memory of its values
            scaled[band] = self.scale(flat[band], limits)
        return scaled.reshape(image.shape)

    def limits(self, blocks: Blocks, count: int) -> tuple[float, float]:
        """The intensities that become 0 and 255 in an image that is not 8 bit.

        Args:
            blocks: its values, of all channels and without alpha.
            count: how many there are.
        """
        if self.kind == "range":
            return self.low, self.high
        least, low, high, largest = percentiles(blocks, count, (0, self.low, self.high, 100))
        # Cells may cover a smaller share of the image than the percentiles leave out.
        return (low, high) if low < high else (least, largest)

    @staticmethod
    def scale(image: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
        """Scales the range between the limits to 0..255. 8-bit images stay; an empty range gives 0 everywhere."""
        if image.dtype == np.uint8:
            return image
        low, high = limits
        if high <= low:
            return np.zeros(image.shape, np.uint8)
        # 32-bit floats hold every value of types up to 16 bit, but would lose small differences of wider types
        kind = "f4" if image.dtype.itemsize <= 2 or image.dtype == np.float32 else "f8"
        scaled = (np.asarray(image, kind) - low) * (255 / (high - low))
        result: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        return result


def rules_of(rule: Rule) -> list[IntensityRule]:
    """The intensity rules of the channels that a rule names, one for each; a single one for RGB.

    Raises:
        CellSegError: the text is of another form, or it has ranges per channel, but not for as many channels.

    >>> rules_of(PixelRule("range:0,4000/0,800", ("DAPI", "CD3")))[1]
    IntensityRule(kind='range', low=0.0, high=800.0)
    """
    wanted = PixelRule.of(rule)
    kind, colon, numbers = wanted.intensity.partition(":")
    rules = [IntensityRule.parse(f"{kind}{colon}{one}") for one in numbers.split(BETWEEN_CHANNELS)]
    count = len(wanted.channels)
    if len(rules) > 1 and len(rules) != count:
        images = f"the images have {counted(count, 'channel')}" if count else "images are read as RGB"
        raise CellSegError(
            f"intensity rule {wanted.intensity!r} has {len(rules)} ranges, one per channel, but {images}; give one "
            "range for all, or one per channel"
        )
    return rules if len(rules) > 1 else rules * max(count, 1)


def as_8_bit(pixels: NDArray[Any], rule: Rule) -> NDArray[np.uint8]:
    """Pixels scaled by a rule: RGB together, channels that are named each by itself.

    Args:
        pixels: (H, W, C) of any real type, with the rule's channels; (H, W, 1) or (H, W, 3) for RGB.
        rule: see :func:`rules_of`.

    Returns:
        The same shape, uint8; 8-bit pixels are not changed.

    Raises:
        CellSegError: see :func:`rules_of`.
    """
    rules = rules_of(rule)
    if pixels.dtype == np.uint8 or not PixelRule.of(rule).channels:
        return rules[0].apply(pixels)
    return np.stack([one.apply(pixels[..., place]) for place, one in enumerate(rules)], axis=2)
