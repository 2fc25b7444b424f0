"""Hostile OME-Zarr folders: no code of theirs runs, and nothing outside them is read."""

import base64
import json
import pickle

import numcodecs
import numpy as np
import pytest
import zarr
from hostile import MakesFolder

from cellseg_d2.errors import CellSegError
from cellseg_d2.images.formats import open_image
from cellseg_d2.images.zarr_metadata import check_zarr

MULTISCALES = [{"version": "0.4", "axes": [{"name": n, "type": "space"} for n in "yx"], "datasets": [{"path": "0"}]}]
V2 = {"zarr_format": 2, "shape": [4, 6], "chunks": [4, 6], "dtype": "|u1", "compressor": None, "fill_value": 0}
V2 |= {"order": "C", "filters": None}
V3 = {"zarr_format": 3, "node_type": "array", "shape": [4, 6], "data_type": "uint8", "fill_value": 0}
V3 |= {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 6]}}, "codecs": [{"name": "bytes"}]}
V3 |= {"chunk_key_encoding": {"name": "default"}}


def write_v2(path, array, multiscales=MULTISCALES, name="0", chunk=bytes(24)):
    (path / name).mkdir(parents=True)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text(json.dumps({"multiscales": multiscales}))
    (path / name / ".zarray").write_text(json.dumps(array))
    (path / name / "0.0").write_bytes(chunk)
    return path


def write_v3(path, array):
    (path / "0").mkdir(parents=True)
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"multiscales": MULTISCALES}}}
    (path / "zarr.json").write_text(json.dumps(group))
    (path / "0" / "zarr.json").write_text(json.dumps(array))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"compressor": {"id": "pickle", "protocol": 5}},
        {"filters": [{"id": "pickle"}]},
        {"filters": [{"id": "shuffle", "elementsize": 1}, {"id": "pickle"}]},
        {"dtype": "|O", "filters": [{"id": "pickle"}]},
        {"dtype": "|O", "filters": None},
    ],
)
def test_a_pickle_codec_is_refused_unrun(tmp_path, changes):
    hostile = pickle.dumps(MakesFolder(tmp_path / "made"))
    array = {**V2, **changes, "fill_value": base64.b64encode(hostile).decode() if "dtype" in changes else 0}
    path = write_v2(tmp_path / "evil.zarr", array, chunk=hostile)
    with pytest.raises(CellSegError, match=r"evil.zarr/0/.zarray: is not opened: its (codec 'pickle'|dtype)"):
        open_image(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("codec", ["pickle", "json2", "msgpack2", "vlen-bytes", "categorize", "imagecodecs_jpeg", 7])
def test_codecs_that_images_do_not_use_are_refused(tmp_path, codec):
    with pytest.raises(CellSegError, match=r"is not among those of images"):
        open_image(write_v2(tmp_path / "a.zarr", {**V2, "compressor": {"id": codec}}))


@pytest.mark.parametrize(
    "codecs",
    [
        [{"name": "numcodecs.pickle"}],
        [{"name": "bytes"}, {"name": "pickle", "configuration": {}}],
        ["bytes", "pickle"],
        [{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "numcodecs.pickle"}], "index_codecs": []}}],
        [{"name": "sharding_indexed", "configuration": {"codecs": [], "index_codecs": [{"name": "pickle"}]}}],
    ],
)
def test_format_3_is_checked_alike(tmp_path, codecs):
    check_zarr(write_v3(tmp_path / "good.zarr", V3))
    with pytest.raises(CellSegError, match=r"0/zarr.json: is not opened: its codec '.*pickle'"):
        check_zarr(write_v3(tmp_path / "evil.zarr", {**V3, "codecs": codecs}))


def test_what_both_formats_say_is_checked(tmp_path):
    path = write_v2(tmp_path / "a.zarr", V2)
    (path / "0" / "zarr.json").write_text(json.dumps({**V3, "codecs": ["pickle"]}))
    with pytest.raises(CellSegError, match="pickle"):
        check_zarr(path)


@pytest.mark.parametrize(
    "path", ["../other/0", "/etc", "a/../../other", "file:///etc", "s3://bucket/0", "..\\other", ".", "", None, 7]
)
def test_paths_stay_inside_the_folder(tmp_path, path):
    write_v2(tmp_path / "other", V2)
    multiscales = [{**MULTISCALES[0], "datasets": [{"path": path}]}]
    with pytest.raises(CellSegError, match="names an array outside its own folder"):
        open_image(write_v2(tmp_path / "a.zarr", V2, multiscales))


def test_links_stay_inside_the_folder(tmp_path):
    write_v2(tmp_path / "other", V2)
    path = write_v2(tmp_path / "a.zarr", V2, [{**MULTISCALES[0], "datasets": [{"path": "1"}]}])
    (path / "1").symlink_to(tmp_path / "other" / "0")
    with pytest.raises(CellSegError, match="outside its own folder"):
        open_image(path)
    (path / "1").unlink()
    (path / "1").symlink_to(path / "0")
    with open_image(path) as image:
        assert image.size == (4, 6)


@pytest.mark.parametrize("sides", [[0, 6], [-4, 6], [4.0, 6], [True, 6], "46", [], None])
@pytest.mark.parametrize("key", ["shape", "chunks"])
def test_sides_are_whole_numbers_above_0(tmp_path, key, sides):
    with pytest.raises(CellSegError, match="write whole numbers above 0"):
        open_image(write_v2(tmp_path / "a.zarr", {**V2, key: sides}))


def test_a_chunk_that_would_fill_the_memory_is_refused(tmp_path):
    array = {**V2, "shape": [10**5, 10**5], "chunks": [10**5, 10**5]}
    with pytest.raises(CellSegError, match="a chunk has 10000000000 bytes, over the limit"):
        open_image(write_v2(tmp_path / "a.zarr", array))


@pytest.mark.parametrize("content", ["", "[]", "3", '{"dtype": 3}', '{"dtype": "|u1"}', "{", "nul"])
@pytest.mark.parametrize("file", [".zattrs", "0/.zarray"])
def test_damaged_metadata_is_one_line(tmp_path, file, content):
    path = write_v2(tmp_path / "a.zarr", V2)
    (path / file).write_text(content)
    with pytest.raises(CellSegError) as caught:
        open_image(path)
    assert "\n" not in str(caught.value)


def codec(name):
    return {
        "blosc": numcodecs.Blosc,
        "bz2": numcodecs.BZ2,
        "gzip": numcodecs.GZip,
        "lz4": numcodecs.LZ4,
        "lzma": numcodecs.LZMA,
        "zlib": numcodecs.Zlib,
        "zstd": numcodecs.Zstd,
    }[name]()


@pytest.mark.parametrize("name", ["blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"])
def test_usual_compressors_are_read(tmp_path, name):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    options = {"compressor": codec(name)}
    if int(zarr.__version__[0]) > 2:
        options["zarr_format"] = 2
    path = write_v2(tmp_path / "a.zarr", V2)
    array = zarr.open(str(path / "0"), mode="w", shape=(4, 6), chunks=(2, 6), dtype="u1", **options)
    array[:] = pixels
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read((0, 0, 6, 4))[..., 0], pixels)
