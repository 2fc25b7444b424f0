"""Whole numbers for config keys that are floats."""

import pytest
import yaml

from cellseg_d2.config import cfg_from_text, cfg_with_overrides, get_cfg
from cellseg_d2.errors import CellSegError


def float_keys(node, above=""):
    for name, value in node.items():
        if hasattr(value, "items"):
            yield from float_keys(value, f"{above}{name}.")
        elif type(value) is float:
            yield f"{above}{name}"


def value_of(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def test_every_float_key_takes_a_whole_number_from_each_source(tmp_path):
    keys = list(float_keys(get_cfg()))
    assert {"SOLVER.BASE_LR", "DATALOADER.REPEAT_THRESHOLD"} <= set(keys)
    content = {"VERSION": 2}
    for key in keys:
        node = content
        *parents, name = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = 3
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    typed, read = get_cfg(overrides=[word for key in keys for word in (key, "3")]), get_cfg(tmp_path / "mine.yaml")
    carried = cfg_from_text(yaml.safe_dump(content))
    for key in keys:
        for cfg in (typed, read, carried):
            assert type(value_of(cfg, key)) is float and value_of(cfg, key) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.BASE_LR", "1", "SOLVER.MAX_ITER", "0.5"], "SOLVER.MAX_ITER"),
        (["SOLVER.BASE_LR", "1", "SOLVER", "1"], "command line"),
        (["SOLVER.BASE_LR", "True"], "SOLVER.BASE_LR"),
        (["SOLVER.BASE_LR", "one"], "SOLVER.BASE_LR"),
    ],
)
def test_other_values_are_refused_and_floats_stay_floats(overrides, message):
    cfg = get_cfg()
    with pytest.raises(CellSegError, match=message):
        cfg_with_overrides(cfg, overrides)
    assert type(cfg.SOLVER.BASE_LR) is float
