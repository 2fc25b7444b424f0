import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from cellseg_d2.errors import CellSegError
from cellseg_d2.weights.array_pickle import read_array_pickle


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_in_containers_are_read(tmp_path, protocol):
    arrays = {
        "f4": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 2), np.uint8),
        "bool": np.array([True, False]),
    }
    content = {"model": OrderedDict(arrays), "list": [1, (np.float32(2.5), "text")], "__author__": "FAIR"}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    found = read_array_pickle(path)
    assert list(found["model"]) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found["model"][name], array)
        assert found["model"][name].dtype == array.dtype.newbyteorder("=")
        assert found["model"][name].flags.writeable
    assert found["list"] == [1, (2.5, "text")]
    assert found["__author__"] == "FAIR"


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Hostile(), "asks for .*mkdir"),
        (np.array([{}, None], object), "only numbers are read"),
        (np.array(["text"]), "only numbers are read"),
        (np.zeros(2, [("a", "i4"), ("b", "O")]), "only numbers are read"),
        (np.random.default_rng(0), "asks for"),
        (1, "but a int"),
    ],
)
def test_everything_else_is_refused(tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content if isinstance(content, int) else {"model": content}, protocol=2))
    with pytest.raises(CellSegError, match=reason):
        read_array_pickle(path)
    assert os.listdir(tmp_path) == ["model.pkl"]


def test_a_shape_that_the_bytes_do_not_fill_is_refused(tmp_path):
    content = pickle.dumps({"model": np.arange(4, dtype=np.uint8)}, protocol=2)
    path = tmp_path / "model.pkl"
    path.write_bytes(content.replace(b"K\x04\x85", b"K\x09\x85"))
    assert path.read_bytes() != content
    with pytest.raises(CellSegError, match="is no file of weights"):
        read_array_pickle(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CellSegError, match=r"a.pkl: there is no such file"):
        read_array_pickle(tmp_path / "a.pkl")
