"""Microns a pixel as TIFF tags, ImageJ, OME-XML, OME-Zarr and slides state them, and what states nothing."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile
import zarr

from cellseg_d2.errors import CellSegError
from cellseg_d2.images.formats import image_header, open_image
from cellseg_d2.images.pixel_size import ome_xml_pixel_size, ome_zarr_pixel_size, stated, tiff_pixel_size

IMAGE = np.zeros((6, 8), np.uint8)


def ome(x, y, x_unit="µm", y_unit="µm"):
    sizes = {"PhysicalSizeX": x, "PhysicalSizeXUnit": x_unit, "PhysicalSizeY": y, "PhysicalSizeYUnit": y_unit}
    return {
        "ome": True,
        "metadata": {"axes": "YX", **{key: value for key, value in sizes.items() if value is not None}},
    }


def imagej(unit, per_unit=(4, 2)):
    return {"imagej": True, "resolution": per_unit, "metadata": {"unit": unit}}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER"}, (0.5, 1.0), id="a centimetre"),
        pytest.param({"resolution": (101_600, 50_800), "resolutionunit": "INCH"}, (0.25, 0.5), id="an inch"),
        pytest.param({"resolution": (1e4 / 3,) * 2, "resolutionunit": 3}, (3.0, 3.0), id="a fraction"),
        pytest.param({}, None, id="nothing"),
        pytest.param({"resolution": (4, 4), "resolutionunit": "NONE"}, None, id="no unit"),
        *(
            pytest.param({"resolution": (dpi, dpi), "resolutionunit": "INCH"}, None, id=f"{dpi} dpi")
            for dpi in (1, 72, 96, 150, 300, 600)
        ),
        pytest.param({"resolution": (28.35, 28.35), "resolutionunit": "CENTIMETER"}, None, id="72 dpi in centimetres"),
        pytest.param({"resolution": (0, 0), "resolutionunit": "CENTIMETER"}, None, id="zero"),
        *(
            pytest.param(imagej(unit), (0.25, 0.5), id=f"ImageJ, {unit!r}")
            for unit in ("micron", "microns", "um", "\\u00B5m")
        ),
        pytest.param(imagej("nm", (0.01, 0.02)), (0.1, 0.05), id="ImageJ, nm"),
        pytest.param(imagej("mm", (4000, 2000)), (0.25, 0.5), id="ImageJ, mm"),
        pytest.param(imagej("pixel"), None, id="ImageJ, pixel"),
        pytest.param(imagej("sec"), None, id="ImageJ, no length"),
        pytest.param(imagej("micron", (0.01, 0.01)), (100.0, 100.0), id="ImageJ, coarse but in microns"),
        pytest.param(ome(0.5, 0.25), (0.5, 0.25), id="OME"),
        pytest.param(ome(0.5, 0.25, None, None), (0.5, 0.25), id="OME, no unit"),
        pytest.param(ome(500, 0.25, "nm", "µm"), (0.5, 0.25), id="OME, two units"),
        pytest.param(ome(0.0005, 0.0005, "mm", "mm"), (0.5, 0.5), id="OME, mm"),
        pytest.param(ome(1, 1, "pixel", "pixel"), None, id="OME, pixel"),
        pytest.param(ome(None, None, None, None), None, id="OME, nothing"),
        pytest.param(ome(0.5, None, "µm", None), None, id="OME, x alone"),
    ],
)
def test_tiffs_state_their_pixel_size(tmp_path, options, expected):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, IMAGE, **options)
    size = image_header(path).pixel_size_um
    assert size == (pytest.approx(expected, rel=1e-3) if expected else None)
    with open_image(path) as image:
        assert image.pixel_size_um == size


def test_an_ome_tiff_without_sizes_is_asked_for_its_tags(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, ome=True, resolution=(10_000, 10_000), resolutionunit="CENTIMETER")
    assert image_header(tmp_path / "a.tif").pixel_size_um == (1.0, 1.0)


@pytest.mark.parametrize("xml", ["<OME>", "<OME/>", "no XML", '<Pixels PhysicalSizeX="wide" PhysicalSizeY="1"/>'])
def test_other_xml_states_nothing(xml):
    assert ome_xml_pixel_size(xml) is None


@pytest.mark.parametrize("values", [(0, 1), (-1, 1), (None, 1), ("", 1), (float("nan"), 1), (float("inf"), 1), (1, 21)])
def test_what_is_no_size_is_not_stated(values):
    assert stated(*values, coarsest=20) is None
    assert stated("0.5", 1) == (0.5, 1.0)


def scaled(*factors):
    return [{"type": "scale", "scale": list(factors)}]


def axes(*units):
    return [{"name": "c", "type": "channel"}] + [
        {"name": name, "type": "space", **({"unit": unit} if unit else {})} for name, unit in zip("yx", units)
    ]


@pytest.mark.parametrize(
    ("level", "image", "axes", "expected"),
    [
        pytest.param(scaled(1, 0.5, 0.25), None, axes("micrometer", "micrometer"), (0.25, 0.5), id="microns"),
        pytest.param(scaled(1, 500, 0.25), None, axes("nanometer", "micrometer"), (0.25, 0.5), id="two units"),
        pytest.param(
            scaled(1, 5, 5), scaled(1, 0.1, 0.2), axes("micrometer", "micrometer"), (1, 0.5), id="both levels"
        ),
        pytest.param(scaled(1, 0.5, 0.25), None, axes(None, None), None, id="no units"),
        pytest.param([], None, axes("micrometer", "micrometer"), None, id="no scale"),
        pytest.param(scaled(0.5, 0.25), None, axes("micrometer", "micrometer"), None, id="too few factors"),
        pytest.param([{"type": "identity"}], None, axes("micrometer", "micrometer"), None, id="identity"),
        pytest.param(scaled(1, 1, 1), None, ["c", "y", "x"], None, id="axes without units, as in 0.3"),
    ],
)
def test_ome_zarr_states_its_pixel_size(level, image, axes, expected):
    described = {"datasets": [{"path": "0", "coordinateTransformations": level}], "coordinateTransformations": image}
    assert ome_zarr_pixel_size(described, axes) == (pytest.approx(expected) if expected else None)


def test_the_folder_of_an_ome_zarr_image_is_asked(tmp_path):
    path = tmp_path / "a.zarr"
    options = {"zarr_format": 2} if int(zarr.__version__[0]) > 2 else {}
    group = zarr.open_group(str(path), mode="w", **options)
    zarr.open(str(path / "0"), mode="w", shape=(1, 6, 8), chunks=(1, 6, 8), dtype="u1", **options)
    datasets = [{"path": "0", "coordinateTransformations": scaled(1, 0.5, 0.25)}]
    group.attrs["multiscales"] = [{"axes": axes("micrometer", "micrometer"), "datasets": datasets}]
    assert image_header(path).pixel_size_um == (0.25, 0.5)


def test_pictures_state_none(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), IMAGE)
    assert image_header(tmp_path / "a.png").pixel_size_um is None


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    with pytest.raises(CellSegError, match=r"a\.tif: cannot be read as a TIFF"):
        image_header(tmp_path / "a.tif")


def test_tags_that_are_damaged_state_nothing():
    file = SimpleNamespace(pages=SimpleNamespace(first=SimpleNamespace(is_ome=False)), is_imagej=False)
    for value in (None, 5, (), (0, 0), ("a", "b")):
        tags = SimpleNamespace(valueof=lambda tag, default=None, value=value: default if "Unit" in tag else value)
        assert tiff_pixel_size(file, SimpleNamespace(tags=tags)) is None
