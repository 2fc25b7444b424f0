"""Tells from the first compressed bytes of a TIFF whether its compression keeps every value."""

from __future__ import annotations

import tifffile

NAMES = {
    "OJPEG": "JPEG",
    "JPEG": "JPEG",
    "ALT_JPEG": "JPEG",
    "JPEG_99": "JPEG",
    "JPEG_LOSSY": "JPEG",
    "JPEG2000": "JPEG 2000",
    "JPEG_2000_LOSSY": "JPEG 2000",
    "APERIO_JP2000_RGB": "JPEG 2000",
    "APERIO_JP2000_YCBC": "JPEG 2000",
    "JPEGXL": "JPEG XL",
    "JPEGXL_DNG": "JPEG XL",
    "WEBP": "WebP",
    "WEBP_DEPRECATED": "WebP",
    "JPEGXR": "JPEG XR",
    "JPEGXR_NDPI": "JPEG XR",
}
"""tifffile's names of compressions that may change values, and the usual ones."""

JPEG_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
"""Frames of JPEG's lossless processes (ITU-T T.81, table B.1)."""

JPEG_LS = 0xF7
JPEG_SCAN = 0xDA
JPEG_BARE = (0xD8, 0x01, *range(0xD0, 0xD8))
"""Markers without a length."""


def may_be_lossy(compression: int) -> bool:
    """Whether a value of the tag Compression stands for one that may change values; the data tells whether it does."""
    return _name(compression) is not None


def lossy_compression(compression: int, data: bytes) -> str | None:
    """The name of a lossy compression; None where every value is kept.

    Files that cannot be told to be lossless, such as JPEG XR, count as lossy.

    Args:
        compression: the value of the tag Compression.
        data: the first strip or tile as it is stored.
    """
    name = _name(compression)
    if name is None:
        return None
    check = {"JPEG": _jpeg, "JPEG 2000": _jpeg_2000, "JPEG XL": _jpeg_xl, "WebP": _webp}.get(name)
    try:
        kept = check is not None and check(data)
    except IndexError:  # it ends within its header
        kept = False
    return None if kept else f"lossy {name}"


def _name(compression: int) -> str | None:
    try:
        return NAMES.get(tifffile.COMPRESSION(compression).name)
    except ValueError:
        return None


def _jpeg(data: bytes) -> bool:
    """Whether a JPEG's frame is of a lossless process; of JPEG-LS, whether it allows no difference."""
    place, is_ls = 0, False
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker in JPEG_BARE:
            place += 2
            continue
        if marker in JPEG_LOSSLESS:
            return True
        if is_ls and marker == JPEG_SCAN:  # ITU-T T.87: the scan's header has NEAR after the components
            return data[place + 5 + 2 * data[place + 4]] == 0
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return False
        is_ls = is_ls or marker == JPEG_LS
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _jpeg_2000(data: bytes) -> bool:
    """Whether the wavelet is the reversible one (ITU-T T.800, marker COD)."""
    start = data.find(b"\xff\x4f\xff\x51")
    place = start + 2
    while start >= 0 and data[place] == 0xFF:
        if data[place + 1] == 0x52:
            return data[place + 13] == 1
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _webp(data: bytes) -> bool:
    """Whether the image's chunk is a lossless one (RFC 9649)."""
    place = 12
    while place + 8 <= len(data):
        kind = data[place : place + 4]
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        place += 8 + int.from_bytes(data[place + 4 : place + 8], "little")
        place += place % 2
    return False


class _Bits:
    """Numbers of some bits, the lowest first, as JPEG XL packs them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def take(self, count: int) -> int:
        value = 0
        for shift in range(count):
            value |= (self._data[self._place // 8] >> self._place % 8 & 1) << shift
            self._place += 1
        return value

    def choose(self, *choices: tuple[int, int]) -> int:
        """A number after a selector of two bits: each choice is (what is added, how many bits follow)."""
        base, bits = choices[self.take(2)]
        return base + self.take(bits)


def _jpeg_xl(data: bytes) -> bool:
    """Whether the colours are kept as they are, which lossless encoders alone do (ISO/IEC 18181-1, image metadata)."""
    for box in (b"jxlc", b"jxlp"):  # inside a container, the second after a number of four bytes
        if data[4:8] == b"JXL " and box in data:
            data = data[data.index(box) + (4 if box == b"jxlc" else 8) :]
    if data[:2] != b"\xff\x0a":
        return False
    bits = _Bits(data[2:])
    small = bits.take(1)
    sides = ((1, 9), (1, 13), (1, 18), (1, 30))
    bits.take(5) if small else bits.choose(*sides)
    if bits.take(3) == 0:  # no fixed ratio of the sides
        bits.take(5) if small else bits.choose(*sides)
    if bits.take(1):  # all is default, which is lossy colours
        return False
    if bits.take(1):  # orientation, animation, ...: no label map has them
        return False
    if bits.take(1):  # floats
        bits.choose((32, 0), (16, 0), (24, 0), (1, 6))
        bits.take(4)
    else:
        bits.choose((8, 0), (10, 0), (12, 0), (1, 6))
    bits.take(1)  # whether 16 bits are enough in between
    for _ in range(bits.choose((0, 0), (1, 0), (2, 4), (1, 12))):
        if not bits.take(1):  # an extra channel that is no plain alpha
            return False
    return bits.take(1) == 0
