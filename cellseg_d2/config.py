"""Every option that the plugin adds to Detectron2's config, and the configs that it ships."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.projects.point_rend import add_pointrend_config

from cellseg_d2.errors import CellSegError, one_line


def add_cellseg_config(cfg: CfgNode) -> None:
    """Adds the plugin's keys, with their defaults, to a Detectron2 config in place."""
    cfg.CELLSEG = CfgNode()
    # Name of a converted dataset: trains on NAME_train and validates on NAME_val. Not used where DATASETS.TRAIN is set.
    cfg.CELLSEG.DATASET = ""
    # How long to train where SOLVER.MAX_ITER is 0: "epochs", EPOCHS of the tiles, or "data", as many iterations as the
    # tiles and cells ask for, with a warm-up, a cosine to zero and evaluations that suit them and may end it earlier.
    cfg.CELLSEG.SCHEDULE = "epochs"
    # Epochs to train with the schedule of that name.
    cfg.CELLSEG.EPOCHS = 200
    # Models with more parameters are refused; 200 M is the limit of the course benchmark that this project began with.
    cfg.CELLSEG.MAX_PARAMETERS = 200_000_000
    # The metric by which model_best.pth is chosen, as evaluation names it; larger is better.
    cfg.CELLSEG.BEST_METRIC = "segm/AP50"
    # Refuse MODEL.WEIGHTS that are known to need another INPUT.FORMAT, other pixel statistics or another stride than
    # the config says. Switch it off to use other statistics deliberately.
    cfg.CELLSEG.CHECK_WEIGHTS_ORIGIN = True
    # Evaluations without a better CELLSEG.BEST_METRIC after which training ends; 0 trains on, or stands for 2 where
    # the schedule follows the data.
    cfg.CELLSEG.EARLY_STOPPING = 0
    # Log the losses on the validation tiles, without augmentation, whenever these are evaluated.
    cfg.CELLSEG.VALIDATION_LOSS = True
    # Validation images, those with the most cells, that each evaluation in training draws for TensorBoard: ground truth
    # beside prediction, what was missed and what is spurious crossed. 0 for none.
    cfg.CELLSEG.VALIDATION_OVERLAYS = 2
    # The optimizer, with SOLVER's keys: "sgd", or "adamw", which learns faster at first and wants other values of
    # SOLVER.BASE_LR, such as 0.001 (five times as much for SHAPE_CLASSIFIER), and of SOLVER.WEIGHT_DECAY, such as 0.05.
    # It has no MOMENTUM and no NESTEROV.
    cfg.CELLSEG.OPTIMIZER = "sgd"
    # Moving average of the weights: the share of the old average that each step keeps, such as 0.999; 0 for none. The
    # average is evaluated too, as ema/segm/AP50 and so on, and its best is kept as model_best_ema.pth.
    cfg.CELLSEG.EMA_DECAY = 0.0
    # Let dark, bright and colour tiles be drawn equally often, each at most this many times as often as otherwise; 0
    # draws all tiles alike.
    cfg.CELLSEG.BALANCE_KINDS = 0.0
    # What SOLVER.AMP.ENABLED computes in: "float16", with scaled losses (GPUs only), or "bfloat16" (GPUs since Ampere,
    # CPUs with AVX512-BF16 or AMX; others train in full precision).
    cfg.CELLSEG.AMP_DTYPE = "float16"
    # Cells of which augmentation leaves fewer pixels, or a smaller share (the change of scale taken out), are no target
    # in training.
    cfg.CELLSEG.MIN_AREA = 10
    cfg.CELLSEG.MIN_VISIBLE = 0.3
    # Leave these, and what the dataset marks as crowd, out of the losses, instead of learning them as background. Needs
    # MODEL.PROPOSAL_GENERATOR.NAME CellRPN and MODEL.ROI_HEADS.NAME CellROIHeads, as Base-CellSeg.yaml sets them.
    cfg.CELLSEG.IGNORE_CROWD = True
    # Tell the box head the size of each box, which RoIAlign hides: for classes that differ in size or in length. Needs
    # MODEL.ROI_HEADS.NAME CellROIHeads or CellCascadeROIHeads.
    cfg.CELLSEG.BOX_SIZE_INPUT = False
    # Classify cells by the shapes of their masks too (size, elongation, roundness, solidity), which the box head cannot
    # see. Needs MODEL.ROI_HEADS.NAME CellROIHeads, MODEL.ROI_MASK_HEAD.NAME CellMaskHead, and masks and boxes that all
    # classes share: MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK and MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG.
    cfg.CELLSEG.SHAPE_CLASSIFIER = False
    # How images that are not 8 bit are scaled, see cellseg_d2.images.intensity.IntensityRule; the default is that of
    # cellseg_d2.images.tiff. With CHANNELS there may be a range per channel, range:0,4000/0,800. Taken from the
    # training dataset.
    cfg.CELLSEG.INTENSITY_RULE = "percentile:0.1,99.9"
    # Microns a pixel of the training images, 0 where they do not say. Taken from the training dataset.
    cfg.CELLSEG.PIXEL_SIZE_UM = 0.0
    # Names of the classes. Taken from the training dataset, so that a checkpoint knows them.
    cfg.CELLSEG.CLASS_NAMES = []
    # The channels that images are read with, in this order: names in the files, or numbers from 0; empty for RGB. Taken
    # from the training dataset, and then MODEL.PIXEL_MEAN and PIXEL_STD too, with one number per channel.
    cfg.CELLSEG.CHANNELS = []
    # Up to three of them that pictures show as red, green and blue; empty for the first three. Only one is grey.
    cfg.CELLSEG.SHOWN_CHANNELS = []
    _add_loss_config(cfg)
    _add_augmentation_config(cfg)
    _add_inference_config(cfg)
    _add_model_config(cfg)


def _add_loss_config(cfg: CfgNode) -> None:
    cfg.CELLSEG.LOSS = CfgNode()
    # Weights of the classification and mask losses. For those of the box losses Detectron2 has keys,
    # MODEL.RPN.BBOX_REG_LOSS_WEIGHT and MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT. A cascade's stages share one weight,
    # and so do PointRend's two losses.
    cfg.CELLSEG.LOSS.RPN_CLS_WEIGHT = 1.0
    cfg.CELLSEG.LOSS.BOX_CLS_WEIGHT = 1.0
    cfg.CELLSEG.LOSS.MASK_WEIGHT = 1.0
    # Weight of each class, and of the background last, in the classification of boxes; empty for none.
    cfg.CELLSEG.LOSS.CLASS_WEIGHTS = []
    # The mask loss: "bce", Mask R-CNN's, or "dice_bce", which adds the Dice loss of each mask as loss_mask_dice (and of
    # PointRend's points as loss_mask_point_dice). Needs CellMaskHead or CellPointRendMaskHead.
    cfg.CELLSEG.LOSS.MASK = "bce"


def _add_augmentation_config(cfg: CfgNode) -> None:
    cfg.CELLSEG.AUG = CfgNode()
    # Probabilities of a flip, and of a turn by 0, 90, 180 or 270 degrees.
    cfg.CELLSEG.AUG.HORIZONTAL_FLIP_PROB = 0.5
    cfg.CELLSEG.AUG.VERTICAL_FLIP_PROB = 0.5
    cfg.CELLSEG.AUG.QUARTER_TURN_PROB = 0.5
    # Shift, scale and rotate in one warp: probability, then the largest shift as a share of the image's sides, the
    # largest change of scale (0.2: 0.8 to 1.2), and the largest angle.
    cfg.CELLSEG.AUG.AFFINE_PROB = 0.5
    cfg.CELLSEG.AUG.SHIFT_LIMIT = 0.05
    cfg.CELLSEG.AUG.SCALE_LIMIT = 0.2
    cfg.CELLSEG.AUG.ROTATE_LIMIT_DEGREES = 15.0
    # Brightness and contrast: probability, largest change of each as a share.
    cfg.CELLSEG.AUG.BRIGHTNESS_CONTRAST_PROB = 0.3
    cfg.CELLSEG.AUG.BRIGHTNESS_LIMIT = 0.2
    cfg.CELLSEG.AUG.CONTRAST_LIMIT = 0.2
    # Hue, saturation and value: probability, largest change of each in OpenCV's 8-bit HSV units.
    cfg.CELLSEG.AUG.HUE_SATURATION_PROB = 0.3
    cfg.CELLSEG.AUG.HUE_LIMIT = 20.0
    cfg.CELLSEG.AUG.SATURATION_LIMIT = 30.0
    cfg.CELLSEG.AUG.VALUE_LIMIT = 20.0
    # Change of scale before all else, smallest and largest factor: the crop (INPUT.CROP) is taken so much smaller or
    # larger and resized. [1.0, 1.0] changes nothing.
    cfg.CELLSEG.AUG.ZOOM_RANGE = [1.0, 1.0]
    # Probabilities of colour becoming grey, of inverted intensities, and of a gamma between 0.5 and 2.
    cfg.CELLSEG.AUG.GRAY_PROB = 0.0
    cfg.CELLSEG.AUG.INVERT_PROB = 0.0
    cfg.CELLSEG.AUG.GAMMA_PROB = 0.0
    # Gaussian blur: probability, largest sigma in pixels. Gaussian noise: probability, largest standard deviation as a
    # share of the full intensity.
    cfg.CELLSEG.AUG.BLUR_PROB = 0.0
    cfg.CELLSEG.AUG.BLUR_SIGMA = 1.5
    cfg.CELLSEG.AUG.NOISE_PROB = 0.0
    cfg.CELLSEG.AUG.NOISE_STD = 0.08
    # Cells of another tile are pasted onto the background before all else, each class equally likely, so that rare ones
    # come more often: probability, and the most cells per tile.
    cfg.CELLSEG.AUG.COPY_PASTE_PROB = 0.0
    cfg.CELLSEG.AUG.COPY_PASTE_MAX_CELLS = 10


def _add_inference_config(cfg: CfgNode) -> None:
    cfg.CELLSEG.INFERENCE = CfgNode()
    # Largest side of the windows that an image is predicted in; a smaller image is predicted whole.
    cfg.CELLSEG.INFERENCE.TILE_SIZE = 512
    # Share of the tile size that neighbouring windows have in common. Cells up to half of it across are seen whole.
    cfg.CELLSEG.INFERENCE.OVERLAP = 0.25
    # Tiles in one call of the model; a CPU takes them one by one all the same, because that is faster there.
    cfg.CELLSEG.INFERENCE.BATCH_SIZE = 4
    # A mask's pixels are those with at least this probability.
    cfg.CELLSEG.INFERENCE.MASK_THRESHOLD = 0.5
    # By how many pixels two tiles may place the same cell apart.
    cfg.CELLSEG.INFERENCE.TOLERANCE = 4
    # What becomes of instances whose masks overlap by more than SUPPRESSION_IOU, whatever their classes, so that one
    # nucleus is not two: "hard" keeps the best, "soft" lowers the scores of the others, "none" leaves them to the
    # detector's box NMS. In COCO results and in evaluation only with SUPPRESS_RESULTS: AP is counted class by class,
    # and a second guess that is dropped is a cell of that class lost (docs/benchmarks.md has what it costs).
    cfg.CELLSEG.INFERENCE.SUPPRESSION = "hard"
    cfg.CELLSEG.INFERENCE.SUPPRESSION_IOU = 0.5
    # The largest share of a cell that better ones may cover; a cell that is hidden more is in none of the files, counts
    # and pictures for people, unless SUPPRESSION is "none". COCO results keep it.
    cfg.CELLSEG.INFERENCE.SUPPRESSION_COVERED = 0.5
    cfg.CELLSEG.INFERENCE.SUPPRESS_RESULTS = False
    # Least score per class, in the order of CLASS_NAMES, of the cells that people look at: of all formats but COCO
    # results, which need the others for AP. Training writes those of the best F1 on the validation images into its best
    # checkpoints. Empty for 0.5.
    cfg.CELLSEG.INFERENCE.MIN_SCORES = []
    # What the network computes in: "float32", or "bfloat16", which is faster on GPUs since Ampere and on CPUs with
    # AVX512-BF16 or AMX (others use float32) and costs a little AP (docs/benchmarks.md).
    cfg.CELLSEG.INFERENCE.PRECISION = "float32"
    # What runs the network: "torch", or on CPUs "openvino", which is faster; pip install 'cellseg_d2[openvino]'.
    cfg.CELLSEG.INFERENCE.BACKEND = "torch"
    # Skip tiles that show nothing: the standard deviation of each channel is at most 3 of 255.
    cfg.CELLSEG.INFERENCE.SKIP_BACKGROUND = False
    # Microns a pixel of the images to predict; 0 for what each file states.
    cfg.CELLSEG.INFERENCE.PIXEL_SIZE_UM = 0.0
    # Resample images whose pixel size is not CELLSEG.PIXEL_SIZE_UM, the training data's.
    cfg.CELLSEG.INFERENCE.RESCALE = False
    # Test-time augmentation: predict each tile in several views, join their boxes and average their masks. FLIPS alone
    # are 3 views, QUARTER_TURNS alone 4, both 8; each at every one of SCALES.
    cfg.CELLSEG.INFERENCE.TTA = CfgNode()
    cfg.CELLSEG.INFERENCE.TTA.ENABLED = False
    cfg.CELLSEG.INFERENCE.TTA.FLIPS = True
    cfg.CELLSEG.INFERENCE.TTA.QUARTER_TURNS = True
    cfg.CELLSEG.INFERENCE.TTA.SCALES = [1.0]


def _add_model_config(cfg: CfgNode) -> None:
    cfg.MODEL.EFFICIENTNET_LITE = CfgNode()
    # Batch normalisation: "FrozenBN" keeps the ImageNet statistics, which small batches would spoil; "BN" trains them.
    cfg.MODEL.EFFICIENTNET_LITE.NORM = "FrozenBN"


def config_names() -> list[str]:
    """Names of the configs that come with the plugin, such as ``mask_rcnn_R_50_FPN``."""
    folder = _config_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def config_path(name: str | Path) -> Path:
    """The file of a config, given as a path or as a name from :func:`config_names`.

    Raises:
        CellSegError: there is no such file and no such name; the message lists the names.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = _config_folder() / f"{str(name).removesuffix('.yaml').removeprefix('configs/')}.yaml"
    if not shipped.is_file():
        raise CellSegError(f"{name}: there is no such config; give a file or one of {', '.join(config_names())}")
    return shipped


def get_cfg(name: str | Path | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """Detectron2's config with PointRend's and the plugin's keys, a config file's values and single overrides.

    Args:
        name: a config's name, such as ``mask_rcnn_R_50_FPN``, or a file; None for the defaults.
        overrides: KEY VALUE KEY VALUE ...

    Raises:
        CellSegError: no such config, or a key that does not exist or whose value is of the wrong type.
    """
    cfg = get_detectron2_cfg()
    add_pointrend_config(cfg)
    add_cellseg_config(cfg)
    if name is not None:
        path = config_path(name)
        _merge(lambda: _merge_file(cfg, str(path)), str(path))
    return cfg_with_overrides(cfg, overrides)


def cfg_with_overrides(cfg: CfgNode, overrides: Sequence[str]) -> CfgNode:
    """Sets KEY VALUE KEY VALUE ... in place and gives the config back.

    Raises:
        CellSegError: a key without a value, that does not exist, or whose value is of the wrong type.
    """
    if options := [text for text in overrides if text.startswith("--")]:
        raise CellSegError(f"options stand before config keys; move {options[0]} there")
    if len(overrides) % 2:
        raise CellSegError(f"config overrides come as KEY VALUE pairs, {overrides[-1]!r} has no partner")
    _merge(lambda: _merge_pairs(cfg, overrides), "command line")
    return cfg


def cfg_from_text(text: str) -> CfgNode:
    """A config from the YAML that ``cfg.dump()`` wrote, as checkpoints carry it.

    Raises:
        CellSegError: not YAML, or keys that this version does not know.
    """
    cfg = get_cfg()
    where = "the checkpoint's config"

    def merge() -> None:
        content = _without_removed_keys(yaml.safe_load(text), where)
        cfg.merge_from_other_cfg(CfgNode(_with_floats(content, cfg)))

    _merge(merge, where)
    return cfg


@dataclass(frozen=True)
class RemovedKey:
    """A key of an earlier version.

    Attributes:
        default: the value that it had unless somebody changed it; checkpoints have all keys.
        advice: what to do instead.
    """

    default: Any
    advice: str


REMOVED_KEYS: Mapping[str, RemovedKey] = {
    "MODEL.EFFICIENTNET_LITE.OUT_FEATURES": RemovedKey(
        ["res2", "res3", "res4", "res5"], "MODEL.FPN.IN_FEATURES says which stages are used"
    ),
    "CELLSEG.INFERENCE.BACKGROUND_STD": RemovedKey(3.0, "SKIP_BACKGROUND has one threshold for all images"),
    "CELLSEG.AUG.COPY_PASTE_ONTO_CELLS": RemovedKey(False, "cells are pasted onto the background only"),
    "CELLSEG.LOSS.RPN_LOC_WEIGHT": RemovedKey(1.0, "use Detectron2's MODEL.RPN.BBOX_REG_LOSS_WEIGHT"),
    "CELLSEG.LOSS.BOX_REG_WEIGHT": RemovedKey(1.0, "use Detectron2's MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT"),
}
"""Keys that earlier versions had."""


def _without_removed_keys(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The content of a checkpoint's config without keys that no longer exist.

    Raises:
        CellSegError: such a key has another value than its former default, so that leaving it out changes the model.
    """
    for key, removed in REMOVED_KEYS.items():
        *parents, name = key.split(".")
        node: Any = content
        for parent in parents:
            node = node.get(parent, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict) and name in node and node.pop(name) != removed.default:
            raise CellSegError(f"{where}: {key} no longer exists; {removed.advice}")
    return content


def _merge_file(cfg: CfgNode, path: str) -> None:
    """Merges a YAML file and the files that its ``_BASE_`` names."""
    content = CfgNode.load_yaml_with_base(path)
    if not isinstance(content, dict):
        raise ValueError("it holds no keys; write KEY: VALUE lines")
    if content.get("VERSION", cfg.VERSION) == cfg.VERSION:
        cfg.merge_from_other_cfg(CfgNode(_with_floats(content, cfg)))
    else:
        cfg.merge_from_file(path, allow_unsafe=False)  # Detectron2 translates the keys of its first version


def _merge_pairs(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Merges KEY VALUE KEY VALUE ..., whose values Detectron2 reads as Python writes them."""
    for key, text in zip(overrides[::2], overrides[1::2]):
        *parents, name = key.split(".")
        node = cfg
        for parent in parents:
            node = node.get(parent) if isinstance(node, CfgNode) else None
        is_float = isinstance(node, CfgNode) and isinstance(node.get(name), float)
        cfg.merge_from_list([key, float(text) if is_float and re.fullmatch(r"[+-]?\d{1,300}", text) else text])


def _with_floats(content: dict[str, Any], cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The content with floats where it has integers for keys that are floats: people write ``BASE_LR: 1``."""
    changed = {}
    for key, value in content.items():
        if isinstance(value, dict) and isinstance(cfg.get(key), dict):
            value = _with_floats(value, cfg[key])
        elif type(value) is int and isinstance(cfg.get(key), float):
            value = float(value)
        changed[key] = value
    return changed


def _merge(merge: Callable[[], None], where: str) -> None:
    """Runs a merge and turns what yacs raises into one line."""
    try:
        merge()
    except (KeyError, AssertionError) as error:
        text = str(error.args[0]) if error.args else "unknown"
        removed = next((key for key in REMOVED_KEYS if key in text), None)
        if removed is not None:
            message = f"{where}: {removed} no longer exists; {REMOVED_KEYS[removed].advice}"
            raise CellSegError(message) from error
        raise CellSegError(
            f"{where}: {text[0].lower()}{text[1:]}; check its spelling in the config reference"
        ) from error
    except RecursionError as error:
        raise CellSegError(f"{where}: its _BASE_ leads back to itself, or it is nested too deeply") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError, OSError, yaml.YAMLError) as error:
        raise CellSegError(f"{where}: {one_line(error)}") from error


def _config_folder() -> Path:
    """configs/ inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"
