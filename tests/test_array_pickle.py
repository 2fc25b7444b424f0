"""Pickles with arrays of objects, as numpy.save writes what is no array; tests/weights has those without."""

import io
import os
import pickle

import numpy as np
import pytest

from cellseg_d2.array_pickle import load_arrays


def loads(content, protocol=4, objects=True):
    return load_arrays(io.BytesIO(pickle.dumps(content, protocol)), objects)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_in_arrays_are_read_as_what_they_are(protocol):
    inner = {"masks": np.arange(6, dtype=np.uint16).reshape(2, 3), "list": [np.float64(2.5), None, "text", (1, True)]}
    whole = np.empty((), object)
    whole[()] = inner | {"several": np.array([[1], None, "a"], object)}
    found = loads(whole, protocol)
    np.testing.assert_array_equal(found.pop("masks"), inner["masks"])
    assert found == {"list": inner["list"], "several": [[1], None, "a"]}


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("made",)


def test_each_object_is_held_to_the_same_rule(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (np.array([Hostile(), None], object), np.array([[np.random.default_rng(0)], None], object)):
        with pytest.raises(pickle.UnpicklingError, match="asks for"):
            loads(content)
    assert os.listdir(tmp_path) == []


def test_without_leave_arrays_of_objects_are_refused():
    with pytest.raises(pickle.UnpicklingError, match="only numbers are read"):
        loads(np.array([1, None], object), objects=False)
