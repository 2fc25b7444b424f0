import collections
import logging
import os
import pickle
import resource

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.weights.checkpoint import CellCheckpointer, WeightsFile, load_file


def _cfg(folder):
    return get_cfg("mask_rcnn_lite0_FPN", ["OUTPUT_DIR", str(folder), "CELLSEG.CLASS_NAMES", "['round', 'long']"])


def _model(classes):
    return nn.ModuleDict({"body": nn.Linear(3, 5), "cls_score": nn.Linear(5, classes)})


def test_a_checkpoint_alone_gives_the_config_back(tmp_path):
    CellCheckpointer(_model(2), _cfg(tmp_path), strict=False).save("model_0000009", iteration=9)
    carried = WeightsFile.read(tmp_path / "model_0000009.pth").cfg()
    assert carried.MODEL.DEVICE == ("cuda" if torch.cuda.is_available() else "cpu")  # of this machine
    assert carried.MODEL.WEIGHTS == str(tmp_path / "model_0000009.pth")
    carried.MODEL.DEVICE, carried.MODEL.WEIGHTS = _cfg(tmp_path).MODEL.DEVICE, _cfg(tmp_path).MODEL.WEIGHTS
    assert carried.OUTPUT_DIR == get_cfg().OUTPUT_DIR
    carried.OUTPUT_DIR = _cfg(tmp_path).OUTPUT_DIR
    assert yaml.safe_load(carried.dump()) == yaml.safe_load(_cfg(tmp_path).dump())
    assert not list(tmp_path.glob("*.partial"))


def test_the_best_checkpoint_is_not_the_one_to_resume_from(tmp_path):
    checkpointer = CellCheckpointer(_model(2), _cfg(tmp_path), strict=False)
    checkpointer.save("model_0000009")
    checkpointer.save_weights("model_best", iteration=9)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000009.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    saved = _model(2)
    nn.init.constant_(saved["cls_score"].bias, value)
    CellCheckpointer(saved, _cfg(tmp_path), strict=False).save("model_final")
    with pytest.raises(CellSegError, match=r"model_final\.pth: holds weights that are infinite or NaN"):
        CellCheckpointer(_model(2), _cfg(tmp_path), strict=True).load(str(tmp_path / "model_final.pth"))


@pytest.mark.parametrize("names", ["['long', 'round']", "['round']", "['round', 'thin']"])
def test_weights_of_other_classes_are_told_by_their_names(names, tmp_path, caplog):
    CellCheckpointer(_model(2), _cfg(tmp_path), strict=False).save("model_final")
    opened = WeightsFile.read(tmp_path / "model_final.pth")
    opened.check_classes(_cfg(tmp_path))
    other = get_cfg("mask_rcnn_lite0_FPN", ["CELLSEG.CLASS_NAMES", names])
    named = f"was trained on the classes round, long, but the dataset has {', '.join(other.CELLSEG.CLASS_NAMES)};"
    with pytest.raises(CellSegError, match=named):
        opened.check_classes(other)
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        opened.warn_of_classes(other)  # of another count the layers that begin anew are named when they are loaded
    assert ("the heads begin with what they know of those" in caplog.text) == (len(other.CELLSEG.CLASS_NAMES) == 2)


def test_a_checkpoint_is_taken_back_with_those_after_it(tmp_path):
    checkpointer = CellCheckpointer(_model(2), _cfg(tmp_path), strict=False)
    for iteration in (3, 7, 11):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    checkpointer.save_weights("model_best", iteration=7)
    checkpointer.take_back(7, ["model_best"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000003.pth"]
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000003.pth")
    checkpointer.take_back(0, [])
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_one_line_and_keeps_the_checkpoint_before(tmp_path):
    checkpointer = CellCheckpointer(_model(2), _cfg(tmp_path), strict=False)
    checkpointer.save("model_final", iteration=1)
    before = (tmp_path / "model_final.pth").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(CellSegError, match=r"model_final\.pth: cannot be written"):
            checkpointer.save("model_final", iteration=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]


def test_a_head_for_another_class_count_is_begun_afresh_and_named(tmp_path, caplog):
    saved = _model(2)
    CellCheckpointer(saved, _cfg(tmp_path), strict=False).save("model_final")
    loaded = _model(7)
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        CellCheckpointer(loaded, _cfg(tmp_path), strict=False).load(str(tmp_path / "model_final.pth"))
    assert torch.equal(loaded["body"].weight, saved["body"].weight)
    assert "cls_score.weight (2, 5) -> (7, 5)" in caplog.text


def test_what_did_not_fit_is_said_by_layer_and_once(tmp_path, caplog):
    saved = nn.ModuleDict({"body": nn.Linear(3, 5), "old": nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})})
    CellCheckpointer(saved, _cfg(tmp_path), strict=False).save("model_final")
    with caplog.at_level(logging.INFO):
        CellCheckpointer(_model(2), _cfg(tmp_path), strict=False).load(str(tmp_path / "model_final.pth"))
    assert (
        "loaded 2 of the model's 4 tensors; initialised randomly: cls_score (2 tensors); not used: old (4 tensors)"
        in caplog.text
    )
    assert "not found in the checkpoint" not in caplog.text and "not used by the model" not in caplog.text


def test_a_long_list_of_layers_is_cut(tmp_path):
    model = nn.ModuleDict({"body": nn.Linear(3, 5), **{f"layer{number:02d}": nn.Linear(1, 1) for number in range(15)}})
    torch.save({"model": nn.ModuleDict({"body": nn.Linear(3, 5)}).state_dict()}, tmp_path / "half.pth")
    with pytest.raises(CellSegError, match=r"model: layer00 \(2 tensors\), .*layer11 \(2 tensors\) and 3 more; give"):
        CellCheckpointer(model, _cfg(tmp_path), strict=True).load(str(tmp_path / "half.pth"))


def test_a_file_of_another_network_is_refused_in_training_too(tmp_path):
    torch.save({"model": nn.ModuleDict({"other": nn.Linear(3, 5)}).state_dict()}, tmp_path / "other.pth")
    with pytest.raises(CellSegError, match=r"has no weights of this model: body .*; not used: other \(2 tensors\)"):
        CellCheckpointer(_model(2), _cfg(tmp_path), strict=False).load(str(tmp_path / "other.pth"))


def test_names_are_completed_from_their_endings_where_the_address_says_so(tmp_path, caplog):
    weights = {"weight": torch.ones(2, 5), "body.weight": torch.ones(5, 3), "bias": torch.ones(5)}
    torch.save(weights, tmp_path / "endings.pth")
    model = nn.ModuleDict({"network": _model(2)})
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        CellCheckpointer(model, _cfg(tmp_path), strict=False).load(
            f"{tmp_path / 'endings.pth'}?matching_heuristics=True"
        )
    assert (model["network"]["body"].weight == 1).all() and (model["network"]["cls_score"].weight == 1).all()
    assert "not used: bias" in caplog.text  # two layers would take it


def test_prediction_refuses_a_head_for_another_class_count(tmp_path):
    CellCheckpointer(_model(2), _cfg(tmp_path), strict=False).save("model_final")
    with pytest.raises(CellSegError, match=r"cls_score.weight \(2, 5\) -> \(7, 5\)"):
        CellCheckpointer(_model(7), _cfg(tmp_path), strict=True).load(str(tmp_path / "model_final.pth"))


def test_prediction_refuses_missing_weights(tmp_path):
    torch.save({"model": {"body.weight": torch.zeros(5, 3)}}, tmp_path / "half.pth")
    with pytest.raises(CellSegError, match=r"does not fit the model: body.bias, cls_score \(2 tensors\)"):
        CellCheckpointer(_model(2), _cfg(tmp_path), strict=True).load(str(tmp_path / "half.pth"))


def test_a_file_that_would_run_code_is_refused_unrun(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": {}, "extra": Hostile()}, tmp_path / "hostile.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Hostile()))
    for name in ("hostile.pth", "plain.pth"):
        with pytest.raises(CellSegError, match=name):
            load_file(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_tensor_alone_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    with pytest.raises(CellSegError, match=r"tensor.pth: is no checkpoint, but a Tensor"):
        CellCheckpointer(_model(2), _cfg(tmp_path), strict=False).load(str(tmp_path / "tensor.pth"))


def test_a_checkpoint_in_torchs_former_format_says_what_to_do_too(tmp_path):
    torch.save({"model": {}}, tmp_path / "former.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CellSegError, match="carries no config"):
        WeightsFile.read(tmp_path / "former.pth").cfg()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"], ids=["empty", "text"])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(CellSegError, match=r"model.pth: is no checkpoint"):
        WeightsFile.read(tmp_path / "model.pth").cfg()


def test_a_checkpoint_without_a_config_says_what_to_do(tmp_path):
    torch.save({"model": {}}, tmp_path / "foreign.pth")
    with pytest.raises(CellSegError, match="carries no config; give --config-file"):
        WeightsFile.read(tmp_path / "foreign.pth").cfg()
    with pytest.raises(CellSegError, match="there is no such file"):
        WeightsFile.read(tmp_path / "nowhere.pth").cfg()


def write_pickle(path, content):
    with open(path, "wb") as file:
        pickle.dump(content, file)
    return str(path)


@pytest.mark.parametrize("form", ["zoo", "caffe2", "imagenet"])
def test_the_model_zoos_files_are_read(form, tmp_path):
    weights = {"body_w": np.ones((5, 3), np.float32), "body_b": np.zeros(5, np.float32)}
    names = {"body.weight": weights["body_w"], "body.bias": weights["body_b"]}
    content = {
        "zoo": {"model": names, "__author__": "Detectron2 Model Zoo"},
        "caffe2": {"blobs": {**weights, "body_w_momentum": np.zeros(1)}},
        "imagenet": collections.OrderedDict(weights),
    }[form]
    model = _model(2)
    CellCheckpointer(model, _cfg(tmp_path), strict=False).load(write_pickle(tmp_path / "model.pkl", content))
    assert (model["body"].weight == 1).all()


def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = write_pickle(tmp_path / "model.pkl", {"model": {}, "__author__": Hostile()})
    with pytest.raises(
        CellSegError, match=r"model.pkl: is no file of weights \(UnpicklingError: it asks for .*mkdir\)"
    ):
        CellCheckpointer(_model(2), _cfg(tmp_path), strict=False).load(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("name", "message"), [("a.pyth", "only .pth"), ("a.pkl", "is no file of weights")])
def test_other_kinds_of_files_are_refused(name, message, tmp_path):
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(CellSegError, match=message):
        CellCheckpointer(_model(2), _cfg(tmp_path), strict=False).load(str(tmp_path / name))
