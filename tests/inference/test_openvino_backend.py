import gc
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch

from benchmarks.predict_profile import drawn_model, drawn_tile
from cellseg_d2.inference.graph_cache import FORM, GraphCache, fingerprint, user_cache_folder
from cellseg_d2.inference.openvino_backend import HINTS, CompiledBackbone, compile_parts, import_openvino
from cellseg_d2.inference.prepare import prepare
from cellseg_d2.weights.locations import PUBLISHED


@pytest.fixture(autouse=True)
def collected():
    """Frees models in cycles in the main thread: test processes died when they were left to a later collection."""
    yield
    gc.collect()


PARTS = ["backbone", "box_head_0", "mask_head", "rpn_head"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cellseg_d2" / "openvino"


@pytest.fixture
def checkpoint(tmp_path):
    model, cfg = drawn_model("mask_rcnn_lite0_FPN", 5, 64)
    path = tmp_path / "run" / "model.pth"
    path.parent.mkdir()
    torch.save({"model": model.state_dict()}, path)
    cfg.MODEL.WEIGHTS = str(path)
    cfg.CELLSEG.INFERENCE.BACKEND = "openvino"
    return model, cfg


def graphs_below(folder):
    return sorted(path.stem for path in folder.rglob("*.xml"))


def found_in(model):
    with torch.inference_mode():
        return model.inference([drawn_tile(64)], do_postprocess=False)[0]


def test_graphs_are_made_once_and_kept_beside_the_checkpoint(checkpoint, cache, monkeypatch):
    model, cfg = checkpoint
    prepare(model, cfg)
    beside = Path(cfg.MODEL.WEIGHTS + ".openvino")
    assert graphs_below(beside) == PARTS
    assert not cache.exists()
    again, _ = drawn_model("mask_rcnn_lite0_FPN", 5, 64)
    monkeypatch.setattr(torch.jit, "trace", None)  # nothing is traced a second time
    prepare(again, cfg)
    assert isinstance(again.backbone, CompiledBackbone)
    torch.testing.assert_close(found_in(again).scores, found_in(model).scores)


def test_other_weights_or_another_model_are_not_taken_from_the_cache(checkpoint):
    model, cfg = checkpoint
    known = fingerprint(model, cfg, "1")
    assert fingerprint(model, cfg, "1") == known != fingerprint(model, cfg, "2")
    changed = cfg.clone()
    changed.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION += 1
    assert fingerprint(model, changed, "1") != known
    with torch.no_grad():
        model.roi_heads.mask_head.deconv.bias[0] += 1e-6
    assert fingerprint(model, cfg, "1") != known
    assert FORM == 1


def test_a_checkpoint_that_was_overwritten_gives_its_new_results(checkpoint):
    model, cfg = checkpoint
    prepare(model, cfg)
    before = found_in(model)
    other, _ = drawn_model("mask_rcnn_lite0_FPN", 5, 64)
    with torch.no_grad():
        other.roi_heads.mask_head.deconv.bias += 1
    plain = found_in(other)
    prepare(other, cfg)  # MODEL.WEIGHTS is the same path
    torch.testing.assert_close(found_in(other).pred_masks, plain.pred_masks, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain.pred_masks, before.pred_masks, atol=1e-3)
    assert graphs_below(Path(cfg.MODEL.WEIGHTS + ".openvino")) == PARTS  # the former ones are gone


def test_where_the_checkpoint_s_folder_cannot_be_written_the_user_s_cache_is_used(checkpoint, cache, caplog):
    model, cfg = checkpoint
    caplog.set_level(logging.INFO, "cellseg_d2")
    Path(cfg.MODEL.WEIGHTS + ".openvino").write_text("in the way")  # as root a folder without rights can be written
    prepare(model, cfg)
    assert graphs_below(cache) == PARTS
    assert "graphs cannot be kept there" in caplog.text


def test_published_weights_do_not_write_into_the_package(checkpoint, cache):
    model, cfg = checkpoint
    for weights in ("nuclei", str(PUBLISHED["nuclei"]), ""):
        cfg.MODEL.WEIGHTS = weights
        folders = GraphCache.of(model, cfg, "1").folders
        assert [folder.parent for folder in folders] == [user_cache_folder()] == [cache]


def test_damaged_graphs_are_made_anew(checkpoint, caplog):
    model, cfg = checkpoint
    prepare(model, cfg)
    beside = Path(cfg.MODEL.WEIGHTS + ".openvino")
    damaged = next(beside.rglob("mask_head.xml"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    again, _ = drawn_model("mask_rcnn_lite0_FPN", 5, 64)
    prepare(again, cfg)
    assert "cannot be used and is made anew" in caplog.text
    assert graphs_below(beside) == PARTS and damaged.stat().st_size > 100
    torch.testing.assert_close(found_in(again).scores, found_in(model).scores)


def test_graphs_compute_in_float32_whatever_the_cpu_has(checkpoint, monkeypatch):
    model, cfg = checkpoint
    prepare(model, cfg)
    assert model.backbone.compiled.graph.get_property("INFERENCE_PRECISION_HINT").to_string() == HINTS["float32"]
    weights = list(Path(cfg.MODEL.WEIGHTS + ".openvino").rglob("*.xml"))
    types = {
        str(constant.get_element_type())
        for path in weights
        for constant in openvino.Core().read_model(path).get_ops()
        if constant.get_type_name() == "Constant"
    }
    assert "f16" not in "".join(types).replace("float16", "f16")


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (256, 224)])
def test_one_graph_serves_all_sizes(size):
    model, cfg = drawn_model("mask_rcnn_lite0_FPN", 5, 64)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = model.backbone(image)
        compile_parts(model, cfg)
        found = model.backbone(image)
    assert found.keys() == expected.keys()
    for name, feature in expected.items():
        torch.testing.assert_close(found[name], feature, rtol=1e-3, atol=1e-4)


def test_a_cascade_and_point_rend_are_taken_over_in_part():
    small = ("MODEL.RESNETS.DEPTH", "MODEL.RESNETS.NUM_GROUPS", "MODEL.RESNETS.WIDTH_PER_GROUP")
    for name, parts in (("cascade_mask_rcnn_X_101_32x8d_FPN", 6), ("pointrend_rcnn_X_101_32x8d_FPN", 3)):
        model, cfg = drawn_model(name, 5, 64, [text for pair in zip(small, ("50", "1", "64")) for text in pair])
        plain = found_in(model)
        prepare_cfg = cfg.clone()
        prepare_cfg.CELLSEG.INFERENCE.BACKEND = "openvino"
        prepare(model, prepare_cfg)
        assert len(graphs_below(user_cache_folder())) == parts
        for path in user_cache_folder().rglob("*.xml"):
            path.unlink()
        found = found_in(model)
        # drawn weights multiply what rounding does, the more the more heads are in a row; trained ones do not
        np.testing.assert_allclose(found.scores, plain.scores, atol=2e-3)
        np.testing.assert_allclose(found.pred_masks, plain.pred_masks, atol=1e-2)


def test_openvino_reports_to_nobody(repo_root):
    code = (
        "import sys; from cellseg_d2.inference.openvino_backend import import_openvino; import_openvino();"
        "print(any(name.startswith('openvino_telemetry') for name in sys.modules))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=repo_root, env={**os.environ}, capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == ["False"]


def test_without_the_extra_one_line_says_how_to_install_it(run_tool, tmp_path, sample_root, repo_root):
    (tmp_path / "openvino.py").write_text("raise ImportError('as where it is not installed')")
    images = sorted((sample_root / "test_release").glob("*.tif"))[:1]
    process = run_tool(
        *("predict", "--weights", "nuclei", "--backend", "openvino", "--input", *images, "--output", tmp_path / "out"),
        PYTHONPATH=f"{repo_root}{os.pathsep}{tmp_path}",
    )
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].endswith("needs OpenVINO: pip install 'cellseg_d2[openvino]'")
    assert import_openvino() is openvino
