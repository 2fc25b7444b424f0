import re

import pytest
import yaml

from cellseg_d2.config import REMOVED_KEYS, cfg_from_text, config_names, get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import INTENSITY_RULE


def test_shipped_configs_are_found_by_name():
    assert {"mask_rcnn_X_101_32x8d_FPN", "mask_rcnn_R_50_FPN", "mask_rcnn_lite0_FPN"} <= set(config_names())


@pytest.mark.parametrize(
    "name", ["mask_rcnn_lite0_FPN", "mask_rcnn_lite0_FPN.yaml", "configs/mask_rcnn_lite0_FPN.yaml"]
)
def test_a_config_is_loaded_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert get_cfg(name).MODEL.FPN.OUT_CHANNELS == 96


def test_a_file_of_the_user_can_build_on_a_shipped_one(tmp_path, repo_root):
    base = repo_root / "configs" / "Base-CellSeg.yaml"
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {base}\nSOLVER:\n  BASE_LR: 0.25\n")
    cfg = get_cfg(tmp_path / "mine.yaml", ["CELLSEG.AUG.AFFINE_PROB", "0.125"])
    assert (cfg.SOLVER.BASE_LR, cfg.CELLSEG.AUG.AFFINE_PROB, cfg.SOLVER.MOMENTUM) == (0.25, 0.125, 0.9)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["CELLSEG.NO_SUCH_KEY", "1"], "NO_SUCH_KEY"),
        (["SOLVER.BASE_LR", "fast"], "fast"),
        (["SOLVER.BASE_LR"], "SOLVER.BASE_LR"),
    ],
    ids=["unknown key", "wrong type", "no value"],
)
def test_bad_overrides_are_named(overrides, named):
    with pytest.raises(CellSegError, match=named):
        get_cfg("mask_rcnn_lite0_FPN", overrides)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("CELLSEG:\n  EPOCS: 3\n", "EPOCS"),
        ("SOLVER: [1, 2\n", "mine.yaml"),
        ("SOLVER: !!python/object/apply:os.system ['exit 1']\n", "mine.yaml"),
        ("_BASE_: nowhere.yaml\n", "nowhere.yaml"),
        ("_BASE_: mine.yaml\n", "mine.yaml: its _BASE_ leads back to itself"),
    ],
    ids=["unknown key", "not YAML", "YAML that runs code", "no such base", "its own base"],
)
def test_bad_files_are_named(text, named, tmp_path):
    (tmp_path / "mine.yaml").write_text("VERSION: 2\n" + text)
    with pytest.raises(CellSegError, match=named):
        get_cfg(tmp_path / "mine.yaml")


def test_a_file_without_keys_is_named(tmp_path):
    (tmp_path / "mine.yaml").write_text("- SOLVER\n")
    with pytest.raises(CellSegError, match=r"mine\.yaml: it holds no keys"):
        get_cfg(tmp_path / "mine.yaml")


def test_an_integer_is_a_float_where_the_key_is_one(tmp_path):
    (tmp_path / "mine.yaml").write_text("VERSION: 2\nSOLVER:\n  BASE_LR: 1\nTEST:\n  EVAL_PERIOD: 1\n")
    cfg = get_cfg(tmp_path / "mine.yaml", ["DATALOADER.REPEAT_THRESHOLD", "0", "SOLVER.MAX_ITER", "5"])
    found = [cfg.SOLVER.BASE_LR, cfg.TEST.EVAL_PERIOD, cfg.DATALOADER.REPEAT_THRESHOLD, cfg.SOLVER.MAX_ITER]
    assert [(value, type(value)) for value in found] == [(1, float), (1, int), (0, float), (5, int)]
    again = cfg_from_text("SOLVER:\n  WEIGHT_DECAY: 0\n")
    assert isinstance(again.SOLVER.WEIGHT_DECAY, float)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CellSegError, match="mask_rcnn_R_50_FPN"):
        get_cfg("mask_rcnn_R_5000_FPN")


def test_a_dumped_config_comes_back_as_it_was():
    cfg = get_cfg("mask_rcnn_X_101_32x8d_FPN", ["SOLVER.STEPS", "(10, 20)", "CELLSEG.CLASS_NAMES", "['a', 'b']"])
    assert yaml.safe_load(cfg_from_text(cfg.dump()).dump()) == yaml.safe_load(cfg.dump())


def test_the_text_of_a_config_cannot_run_code(tmp_path):
    target = tmp_path / "ran"
    with pytest.raises(CellSegError):
        cfg_from_text(
            f"SOLVER: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{target}']]"
        )
    assert not target.exists()


def test_the_intensity_rule_has_one_default():
    assert get_cfg().CELLSEG.INTENSITY_RULE == INTENSITY_RULE


@pytest.mark.parametrize("key", REMOVED_KEYS)
def test_a_key_of_an_earlier_version_is_named_with_what_to_do(key, tmp_path):
    *parents, name = key.split(".")
    text = "".join(f"{'  ' * depth}{parent}:\n" for depth, parent in enumerate(parents))
    (tmp_path / "old.yaml").write_text(f"VERSION: 2\n{text}{'  ' * len(parents)}{name}: {REMOVED_KEYS[key].default}\n")
    message = re.escape(f"{key} no longer exists; {REMOVED_KEYS[key].advice}")
    with pytest.raises(CellSegError, match=rf"old\.yaml: {message}"):
        get_cfg(tmp_path / "old.yaml")
    with pytest.raises(CellSegError, match=f"command line: {message}"):
        get_cfg(None, [key, str(REMOVED_KEYS[key].default)])


def with_removed_keys(changed=None):
    """The config's text as an earlier version wrote it into checkpoints."""
    content = yaml.safe_load(get_cfg("mask_rcnn_lite0_FPN").dump())
    for key, removed in REMOVED_KEYS.items():
        *parents, name = key.split(".")
        node = content
        for parent in parents:
            node = node[parent]
        node[name] = "changed" if key == changed else removed.default
    return yaml.safe_dump(content)


def test_a_checkpoint_of_an_earlier_version_is_read():
    found, shipped = cfg_from_text(with_removed_keys()), get_cfg("mask_rcnn_lite0_FPN")
    assert yaml.safe_load(found.dump()) == yaml.safe_load(shipped.dump())


@pytest.mark.parametrize("key", REMOVED_KEYS)
def test_a_checkpoint_that_used_a_removed_key_is_refused(key):
    with pytest.raises(CellSegError, match=f"the checkpoint's config: {key} no longer exists"):
        cfg_from_text(with_removed_keys(changed=key))
