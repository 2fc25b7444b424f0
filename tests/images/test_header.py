"""What is read of an image without its pixels."""

import json

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from cellseg_d2.errors import CellSegError
from cellseg_d2.images.formats import image_header, open_image

FORMAT_2 = {} if zarr.__version__.startswith("2.") else {"zarr_format": 2}


@pytest.mark.parametrize("kind", ["tif", "tiled.tif", "png", "jpg", "ome.zarr"])
def test_the_header_tells_the_size_and_no_pixel_is_decoded(tmp_path, monkeypatch, kind):
    pixels = np.zeros((70, 90, 3), np.uint8)
    path = tmp_path / f"image.{kind}"
    if kind.endswith("tif"):
        options = {"tile": (32, 32)} if "tiled" in kind else {}
        tifffile.imwrite(path, pixels, photometric="rgb", compression="lzw", **options)
    elif kind == "ome.zarr":
        array = zarr.open(str(path / "0"), mode="w", shape=(70, 90), chunks=(32, 32), dtype="u1", **FORMAT_2)
        array[:] = pixels[..., 0]
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        multiscales = [{"version": "0.4", "axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]}]
        (path / ".zattrs").write_text(json.dumps({"multiscales": multiscales}))
    else:
        cv2.imwrite(str(path), pixels)
    for decoder in ("lzw_decode", "zlib_decode", "png_decode", "jpeg_decode"):
        monkeypatch.setattr(imagecodecs, decoder, None)
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", None)
    monkeypatch.setattr(zarr.Array, "__getitem__", None)
    assert image_header(path).size == (70, 90)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "after_the_pixels.png"])
def test_the_header_of_a_turned_picture_is_that_of_its_pixels(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / name
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path, exif=exif)
    if name.startswith("after"):
        content = path.read_bytes()
        first, last = content.index(b"eXIf") - 4, content.index(b"IEND") - 4
        length = int.from_bytes(content[first : first + 4], "big") + 12
        chunk = content[first : first + length]
        path.write_bytes(content[:first] + content[first + length : last] + chunk + content[last:])
    with open_image(path) as image:
        assert image_header(path).size == image.size


def test_a_large_picture_has_a_size_and_is_refused_by_it(tmp_path):
    """Pillow's ``open`` refuses so many pixels, as if the file were an attack."""
    path = tmp_path / "large.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert image_header(path).size == (20_000, 20_000)
    with pytest.raises(CellSegError, match=r"is 20000 x 20000, over the limit of 1000000 pixels; cut it .* tiled TIFF"):
        open_image(path, max_pixels=10**6)
