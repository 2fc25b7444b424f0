"""Arms differ in what their study is about, and in nothing else."""

import pytest

from cellseg_d2.config import get_cfg
from cellseg_d2.studies.arms import MODELS, STUDIES
from cellseg_d2.studies.settings import (
    differences,
    inference_overrides,
    run_overrides,
    run_settings,
    schedule_overrides,
)

COLOURS_AND_TURNS = {
    f"CELLSEG.AUG.{name}_PROB" for name in ("QUARTER_TURN", "AFFINE", "BRIGHTNESS_CONTRAST", "HUE_SATURATION")
}
SIZES = {"MODEL.ANCHOR_GENERATOR.SIZES"}
RESNETS = {f"MODEL.RESNETS.{key}" for key in ("DEPTH", "NUM_GROUPS", "WIDTH_PER_GROUP")}
# what each set of ImageNet weights was trained with
ORIGINS = {"MODEL.WEIGHTS", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1"}


@pytest.fixture(scope="module")
def settings_of(nuclei):
    """What each arm of a study is trained with, by its name."""

    def settings(study, model, iterations=60, user=()):
        reference = get_cfg(MODELS[model], ["TEST.DETECTIONS_PER_IMAGE", "700", "SOLVER.MAX_ITER", "600", *user])
        found = {}
        for arm in STUDIES[study].arms:
            config = arm.config(model)
            overrides = run_overrides(config, arm.overrides(), "nuclei", 1, reference, iterations, user)
            found[arm.name] = run_settings(config, overrides)
        return found

    return settings


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("study", "keys"),
    [
        # losses, sampling and augmentation are the same today; how cells are predicted is made the same
        ("recipe", [SIZES | {"CELLSEG.IGNORE_CROWD"}]),
        ("augmentation", [COLOURS_AND_TURNS]),
        ("scheduler", [{"SOLVER.STEPS"}]),
        ("anchors", [SIZES, SIZES]),
        ("backbone", [RESNETS]),
        ("overlap", [set()]),
    ],
)
def test_arms_differ_in_exactly_what_is_compared(study, keys, model, settings_of):
    first, *others = settings_of(study, model).values()
    if (study, model) == ("backbone", "recipe"):
        keys = [RESNETS | ORIGINS]
    assert [set(differences(first, other)) for other in others] == keys


def test_the_anchors_are_the_originals_two_and_ours():
    sizes = [
        get_cfg(arm.config("recipe"), arm.overrides()).MODEL.ANCHOR_GENERATOR.SIZES for arm in STUDIES["anchors"].arms
    ]
    assert sizes == [[[32], [64], [128], [256], [512]], [[32, 64, 128, 256, 512]], [[8], [16], [32], [64], [128]]]


def test_the_tiles_of_one_arm_overlap():
    assert [arm.overlap for arm in STUDIES["overlap"].arms] == [0.0, 0.25]
    assert {arm.overlap for name, study in STUDIES.items() if name != "overlap" for arm in study.arms} == {0.0}


@pytest.mark.parametrize("arm", ["original", "plugin"])
def test_all_arms_predict_as_the_shipped_config_does(arm, settings_of):
    settings, shipped = settings_of("recipe", "laptop")[arm], get_cfg("mask_rcnn_lite0_FPN")
    original = get_cfg("ablations/original_recipe")
    assert settings["MODEL"]["ROI_HEADS"]["SCORE_THRESH_TEST"] == shipped.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.05
    assert settings["MODEL"]["RPN"]["POST_NMS_TOPK_TEST"] == shipped.MODEL.RPN.POST_NMS_TOPK_TEST == 2000
    assert differences(settings["CELLSEG"]["INFERENCE"], shipped.CELLSEG.INFERENCE) == []
    assert differences(settings["CELLSEG"]["INFERENCE"], original.CELLSEG.INFERENCE) != []
    assert settings["TEST"]["DETECTIONS_PER_IMAGE"] == 700
    assert settings["DATASETS"]["TEST"] == ["nuclei_val_whole"]


def test_how_all_arms_predict_survives_as_text():
    cfg = get_cfg(
        "mask_rcnn_lite0_FPN", ["CELLSEG.INFERENCE.TTA.SCALES", "[0.5, 1.0]", "TEST.DETECTIONS_PER_IMAGE", "9"]
    )
    again = get_cfg("ablations/original_recipe", inference_overrides(cfg))
    assert again.CELLSEG.INFERENCE == cfg.CELLSEG.INFERENCE
    assert again.TEST.DETECTIONS_PER_IMAGE == 9


def test_the_schedule_keeps_its_shares():
    reference = get_cfg("mask_rcnn_lite0_FPN")
    own = get_cfg("mask_rcnn_lite0_FPN", ["SOLVER.MAX_ITER", "900", "SOLVER.STEPS", "(300, 600)"])
    cfg = get_cfg("mask_rcnn_lite0_FPN", schedule_overrides(own, reference, 90))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.STEPS) == (90, 9, (30, 60))
    assert (cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD) == (30, 30)
    cfg = get_cfg("mask_rcnn_lite0_FPN", schedule_overrides(own, reference, 9))
    assert (cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD) == (20, 20)  # not every third iteration


def test_keys_of_the_user_have_the_last_word_in_all_arms(settings_of):
    user = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.25", "CELLSEG.AUG.AFFINE_PROB", "0.75"]
    for settings in settings_of("augmentation", "laptop", user=user).values():
        assert settings["MODEL"]["ROI_HEADS"]["SCORE_THRESH_TEST"] == 0.25
        assert settings["CELLSEG"]["AUG"]["AFFINE_PROB"] == 0.75


def test_settings_name_no_place_on_this_machine(settings_of, nuclei):
    assert str(nuclei.parent) not in str(settings_of("recipe", "laptop"))
    assert "OUTPUT_DIR" not in settings_of("recipe", "laptop")["plugin"]


@pytest.mark.parametrize("arm", [arm for study in STUDIES.values() for arm in study.arms if arm.ablation])
def test_an_ablation_is_a_config_of_the_recipes_model_too(arm):
    """The file alone gives what the study composes."""
    assert get_cfg(f"ablations/{arm.ablation}") == get_cfg(MODELS["recipe"], arm.overrides())
