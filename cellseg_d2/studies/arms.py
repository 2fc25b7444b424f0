"""The studies: the five of the course benchmark that this plugin was made for, and its recipe as a whole.

The recipe is the benchmark's set of training settings, which ``configs/ablations/original_recipe.yaml`` keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from cellseg_d2.report.run_folder import flat

MODELS: Mapping[str, str] = {"laptop": "mask_rcnn_lite0_FPN", "recipe": "mask_rcnn_X_101_32x8d_FPN"}
"""Name on the command line -> the shipped config that the arms of a study are based on."""


@dataclass(frozen=True)
class Arm:
    """One variant of a comparison.

    Attributes:
        name: the name of its folder.
        label: its name in figures and tables.
        ablation: a file of configs/ablations whose values replace those of the model's config; empty for none.
        configs: name from :data:`MODELS` -> a config to use instead of the shipped one.
        overlap: the overlap of the training tiles, as a share of their size.
    """

    name: str
    label: str
    ablation: str = ""
    configs: Mapping[str, str] = field(default_factory=dict)
    overlap: float = 0.0

    def config(self, model: str) -> str:
        """The name of the config that the arm is based on, for a model of :data:`MODELS`."""
        return self.configs.get(model, MODELS[model])

    def overrides(self) -> list[str]:
        """The values that the arm's ablation sets, as KEY VALUE KEY VALUE ..., without its ``_BASE_``."""
        if not self.ablation:
            return []
        from cellseg_d2.config import config_path  # needs Detectron2, which the command's --help must not load

        content = yaml.safe_load(config_path(f"ablations/{self.ablation}").read_text(encoding="utf-8"))
        return [text for key, value in flat(content).items() if key != "_BASE_" for text in (key, str(value))]


@dataclass(frozen=True)
class Study:
    """A comparison of several arms with the first one.

    Attributes:
        name: its name on the command line, and the name of its folder and figure.
        title: its title in the figure and above the table.
        arms: two or more.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]


STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        Study(
            "recipe",
            "The original recipe against this plugin's settings",
            (Arm("original", "original recipe", "original_recipe"), Arm("plugin", "this plugin")),
        ),
        Study(
            "augmentation",
            "Flips against the full augmentation",
            (Arm("flips", "flips", "augmentation_flips"), Arm("full", "full augmentation")),
        ),
        Study(
            "scheduler",
            "A learning rate in steps against a constant one",
            (Arm("steps", "in steps", "scheduler_steps"), Arm("constant", "constant", "scheduler_constant")),
        ),
        Study(
            "anchors",
            "Sizes of anchors",
            (
                Arm("coco", "32 to 512, one a level", "anchors_coco"),
                Arm("all_levels", "32 to 512, all at every level", "anchors_all_levels"),
                Arm("small", "8 to 128, one a level"),
            ),
        ),
        Study(
            "backbone",
            "ResNet-50 against ResNeXt-101",
            (
                Arm(
                    "R50",
                    "ResNet-50",
                    configs={"recipe": "mask_rcnn_R_50_FPN", "laptop": "ablations/backbone_R50_laptop"},
                ),
                Arm("X101", "ResNeXt-101-32x8d", configs={"laptop": "ablations/backbone_X101_laptop"}),
            ),
        ),
        Study(
            "overlap",
            "Tiles without and with overlap",
            (Arm("without", "without overlap"), Arm("with", "overlap 0.25", overlap=0.25)),
        ),
    )
}
"""By name."""
