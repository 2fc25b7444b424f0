"""TIFFs whose header decides: turned images, sets of files, chains of pages, missing strips, lossy label maps."""

import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from drawing import discs
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from cellseg_d2.errors import CellSegError
from cellseg_d2.images.formats import image_header, open_image, read_whole
from cellseg_d2.images.lossless import lossy_compression
from cellseg_d2.images.sources import tiff_source
from cellseg_d2.images.tiff import read_image, read_label_map
from cellseg_d2.images.tiff_header import MAX_DIRECTORIES

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 200, (37, 53)).astype(np.uint16)

ORIENTATION = 274


def turned(pixels, value):
    """The picture as Pillow shows a file that states this orientation."""
    picture = Image.fromarray(pixels)
    picture.getexif()[ORIENTATION] = value
    return np.asarray(ImageOps.exif_transpose(picture))


def write(path, pixels, value=1, **options):
    tifffile.imwrite(path, pixels, extratags=[(ORIENTATION, "H", 1, value, True)], **options)
    return path


@pytest.mark.parametrize("value", range(1, 9))
def test_image_and_label_map_are_turned_as_the_orientation_says(tmp_path, value):
    image = write(tmp_path / "image.tif", RGB, value, photometric="rgb")
    labels = write(tmp_path / "labels.tif", LABELS, value)
    assert np.array_equal(read_image(image), turned(RGB, value))
    assert np.array_equal(read_label_map(labels), turned(LABELS, value))
    assert image_header(image).size == turned(LABELS, value).shape


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("options", [{"tile": (16, 32)}, {"tile": (16, 32), "compression": "lzw"}, {}])
def test_windows_of_a_turned_image_are_those_of_the_whole(tmp_path, value, options, monkeypatch):
    monkeypatch.setattr("cellseg_d2.images.sources.WHOLE_BYTES", 0)
    path = write(tmp_path / "image.tif", RGB, value, photometric="rgb", **options)
    assert tiff_source(path) is not None
    whole = turned(RGB, value)
    with open_image(path) as image:
        assert image.size == whole.shape[:2]
        for x0, y0, x1, y1 in [(0, 0, 5, 7), (11, 3, 30, 36), (0, 0, whole.shape[1], whole.shape[0])]:
            assert np.array_equal(image.read((x0, y0, x1, y1)), whole[y0:y1, x0:x1])


def test_a_quarter_turn_exchanges_the_sides_of_a_pixel(tmp_path):
    options = {"resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER"}
    upright = image_header(write(tmp_path / "a.tif", RGB, 1, **options)).pixel_size_um
    assert upright == (0.5, 1.0)
    assert image_header(write(tmp_path / "b.tif", RGB, 6, **options)).pixel_size_um == (1.0, 0.5)


def test_axes_that_begin_with_x_turn_image_and_label_map_alike(tmp_path):
    for name, pixels in (("image.tif", RGB[..., 0]), ("labels.tif", LABELS)):
        tifffile.imwrite(tmp_path / name, pixels, metadata={"axes": "XY"})
    assert np.array_equal(read_image(tmp_path / "image.tif")[..., 0], RGB[..., 0].T)
    assert np.array_equal(read_label_map(tmp_path / "labels.tif"), LABELS.T)


# OME-TIFFs of several files


def ome_xml(own, names, size=(37, 53)):
    """OME-XML of three channels, one file each, as OME's sample sets have it."""
    planes = "".join(
        f'<TiffData FirstC="{number}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{number}</UUID>'
        "</TiffData>"
        for number, name in enumerate(names)
    )
    channels = "".join(f'<Channel ID="Channel:0:{number}" SamplesPerPixel="1"/>' for number in range(len(names)))
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="urn:uuid:{own}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
        f'SizeX="{size[1]}" SizeY="{size[0]}" SizeC="{len(names)}" SizeZ="1" SizeT="1" PhysicalSizeX="0.25" '
        f'PhysicalSizeY="0.25">{channels}{planes}</Pixels></Image></OME>'
    )


@pytest.mark.parametrize("there", [[0], [0, 1, 2]])
def test_a_file_of_a_set_gives_its_own_plane(tmp_path, there):
    names = [f"c{number}.ome.tif" for number in range(3)]
    for number in there:
        path = tmp_path / names[number]
        tifffile.imwrite(path, RGB[..., number], description=ome_xml(number, names), metadata=None)
    for number in there:
        image = read_image(tmp_path / names[number])
        assert np.array_equal(image, np.repeat(RGB[..., number, None], 3, axis=2))
        assert image_header(tmp_path / names[number]).pixel_size_um == (0.25, 0.25)


def test_a_renamed_ome_tiff_is_no_part_of_a_set(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.moveaxis(RGB, 2, 0), metadata={"axes": "CYX"})
    (tmp_path / "a.ome.tif").rename(tmp_path / "b.ome.tif")
    assert np.array_equal(read_image(tmp_path / "b.ome.tif"), RGB)


# Chains of pages


def directory(next_offset, order="<"):
    """A directory of a single tag, and what follows it."""
    return struct.pack(f"{order}HHHIII", 1, 256, 3, 1, 5, next_offset)


@pytest.mark.parametrize("read", [read_image, read_label_map, image_header, read_whole])
def test_pages_that_go_round_in_a_circle_are_refused(tmp_path, read):
    path = tmp_path / "a.tif"
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + directory(26) + directory(8) + bytes(32))
    with pytest.raises(CellSegError, match=r"a\.tif: its list of pages goes round in a circle"):
        read(path)


@pytest.mark.parametrize("bigtiff", [False, True])
def test_more_pages_than_any_image_has_are_refused(tmp_path, bigtiff):
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=bigtiff) as file:
        for _ in range(MAX_DIRECTORIES + 1):
            file.write(np.zeros((2, 2), np.uint8), contiguous=False, metadata=None)
    with pytest.raises(CellSegError, match=f"holds more than {MAX_DIRECTORIES} pages; save one plane"):
        read_image(tmp_path / "a.tif")


# Strips and tiles that are not there


def with_tag(path, code, values):
    """The file with other values for a tag of 16 or 32 bit numbers."""
    with tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags[code]
        place, kind = tag.valueoffset, {3: "H", 4: "I", 16: "Q"}[int(tag.dtype)]
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{len(values)}{kind}", content, place, *values)
    path.write_bytes(content)


@pytest.mark.parametrize("read", [read_image, read_label_map])
@pytest.mark.parametrize("code", [273, 279])
def test_a_strip_without_offset_or_bytes_is_refused(tmp_path, read, code):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, LABELS.astype(np.uint8), rowsperstrip=10, compression="zlib")
    with tifffile.TiffFile(path) as file:
        values = list(file.pages.first.tags[code].value)
    with_tag(path, code, [*values[:-1], 0])
    with pytest.raises(CellSegError, match=r"a\.tif: 1 of its strips or tiles have no bytes"):
        read(path)


def test_blank_tiles_of_a_sparse_file_are_refused_in_a_label_map_and_told_of_in_an_image(tmp_path, caplog):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, LABELS.astype(np.uint8), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offsets, counts = (list(file.pages.first.tags[code].value) for code in (324, 325))
    with_tag(path, 324, [0, *offsets[1:]])
    with_tag(path, 325, [0, *counts[1:]])
    with pytest.raises(CellSegError, match="1 of 12 strips or tiles are left out"):
        read_label_map(path)
    image = read_image(path)
    assert not image[:16, :16].any() and np.array_equal(image[16:, :, 0], LABELS[16:])
    assert "1 of 12 strips or tiles are left out; they are read as 0" in caplog.text


@pytest.mark.parametrize("read", [read_image, read_label_map, image_header])
@pytest.mark.parametrize(("code", "value"), [(256, 0), (257, 0), (258, 77), (339, 99)])
def test_absurd_sizes_and_types_are_refused_in_one_line(tmp_path, read, code, value):
    path = tmp_path / "a.tif"
    write(path, LABELS.astype(np.uint8), compression="zlib")
    with tifffile.TiffFile(path) as file:
        if code not in file.pages.first.tags:
            tifffile.imwrite(path, LABELS.astype(np.int8), compression="zlib")
    with_tag(path, code, [value])
    with pytest.raises(CellSegError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


# Compressions that change values

CELLS = discs(np.random.default_rng(1), 64, 72, 9)


@pytest.mark.parametrize(
    ("compression", "arguments", "lossy"),
    [
        ("jpeg", {}, "JPEG"),
        ("jpeg2000", {"level": 40}, "JPEG 2000"),
        ("jpeg2000", {}, None),
        ("jpegxl", {"lossless": False, "level": 50}, "JPEG XL"),
        ("jpegxl", {"lossless": True}, None),
        ("webp", {"lossless": False, "level": 50}, "WebP"),
        ("webp", {"lossless": True}, None),
        ("jpegxr", {}, "JPEG XR"),
        ("lzw", {}, None),
    ],
)
def test_label_maps_are_refused_where_their_compression_changes_ids(tmp_path, compression, arguments, lossy):
    path, pixels = tmp_path / "class1.tif", CELLS.astype(np.uint8)
    if compression == "webp":  # stores colours alone
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    tifffile.imwrite(path, pixels, compression=compression, compressionargs=arguments)
    if lossy is None:
        assert np.array_equal(read_label_map(path), CELLS)
        return
    with pytest.raises(CellSegError, match=rf"class1\.tif: is compressed with lossy {lossy}, which changes the ids"):
        read_label_map(path)
    assert read_image(path).shape == (64, 72, 3)


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("JPEG", lambda pixels: imagecodecs.ljpeg_encode(pixels)),
        ("JPEG", lambda pixels: imagecodecs.jpegls_encode(pixels)),
        ("JPEG2000", lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="jp2")),
        ("JPEGXL", lambda pixels: imagecodecs.jpegxl_encode(pixels.astype(np.uint16) * 200, usecontainer=True)),
    ],
)
def test_lossless_variants_pass(name, encode):
    assert lossy_compression(int(tifffile.COMPRESSION[name]), bytes(encode(CELLS.astype(np.uint8)))) is None


@given(data=st.binary(max_size=60), name=st.sampled_from(["JPEG", "JPEG2000", "JPEGXL", "WEBP"]))
def test_damaged_data_counts_as_lossy(data, name):
    start = {"JPEG": b"\xff\xd8", "JPEG2000": b"\xff\x4f\xff\x51", "JPEGXL": b"\xff\x0a", "WEBP": b"RIFF0000WEBP"}[name]
    assert lossy_compression(int(tifffile.COMPRESSION[name]), start + data) in (None, f"lossy {_shown(name)}")


def _shown(name):
    return {"JPEG2000": "JPEG 2000", "JPEGXL": "JPEG XL", "WEBP": "WebP"}.get(name, name)
