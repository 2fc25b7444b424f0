"""What is compared with what: the original's five studies, and its recipe as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MODELS: Mapping[str, str] = {"laptop": "mask_rcnn_lite0_FPN", "recipe": "mask_rcnn_X_101_32x8d_FPN"}
"""The shipped config that the arms of a study are built on, by what the command line calls it."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: of its folder.
        label: in figures and tables.
        configs: by the names of :data:`MODELS`, the config that is trained; the shipped one where none is given.
        overlap: of the tiles it is trained on, as a share of their size.
    """

    name: str
    label: str
    configs: Mapping[str, str] = field(default_factory=dict)
    overlap: float = 0.0

    def config(self, model: str) -> str:
        """The config's name on a model of :data:`MODELS`."""
        return self.configs.get(model, MODELS[model])


@dataclass(frozen=True)
class Study:
    """A comparison; what the others are measured by is its first arm.

    Attributes:
        name: on the command line, and of its folder and figure.
        title: in the figure and above the table.
        arms: two or more.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]


def _ablation(name: str) -> dict[str, str]:
    """The two files of an arm in configs/ablations: on the recipe's model, and on the laptop's."""
    return {"recipe": f"ablations/{name}", "laptop": f"ablations/{name}_lite0"}


STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        Study(
            "recipe",
            "The original recipe against this plugin's settings",
            (Arm("original", "original recipe", _ablation("original_recipe")), Arm("plugin", "this plugin")),
        ),
        Study(
            "augmentation",
            "Flips against the full augmentation",
            (Arm("flips", "flips", _ablation("augmentation_flips")), Arm("full", "full augmentation")),
        ),
        Study(
            "scheduler",
            "A learning rate in steps against a constant one",
            (Arm("steps", "in steps", _ablation("scheduler_steps")), Arm("constant", "constant")),
        ),
        Study(
            "anchors",
            "Sizes of anchors",
            (
                Arm("coco", "32 to 512, one a level", _ablation("anchors_coco")),
                Arm("all_levels", "32 to 512, all at every level", _ablation("anchors_all_levels")),
                Arm("small", "8 to 128, one a level"),
            ),
        ),
        Study(
            "backbone",
            "ResNet-50 against ResNeXt-101",
            (
                Arm("R50", "ResNet-50", {"recipe": "mask_rcnn_R_50_FPN", "laptop": "ablations/backbone_R50_laptop"}),
                Arm("X101", "ResNeXt-101-32x8d", {"laptop": "ablations/backbone_X101_laptop"}),
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
