"""Augmentation of intensities where an image's channels are no colours: each channel is changed by itself."""

from __future__ import annotations

import cellseg_d2  # noqa: F401  (sets NO_ALBUMENTATIONS_UPDATE before albumentations is imported) # isort: skip

from typing import Any

import albumentations as A
import numpy as np
from detectron2.config import CfgNode
from numpy.typing import NDArray

GAMMAS = (0.5, 2.0)
"""The smallest and the largest exponent."""


def channel_transforms(aug: CfgNode) -> list[A.BasicTransform]:
    """The transforms of CELLSEG.AUG that take the place of those of RGB images; hue, saturation and grey have none."""
    brightness, contrast = aug.BRIGHTNESS_LIMIT, aug.CONTRAST_LIMIT
    return [
        ChannelIntensity((1 - contrast, 1 + contrast), (-brightness, brightness), p=aug.BRIGHTNESS_CONTRAST_PROB),
        A.InvertImg(p=aug.INVERT_PROB),
        ChannelIntensity(gamma=GAMMAS, p=aug.GAMMA_PROB),
    ]


class ChannelIntensity(A.ImageOnlyTransform):
    """Changes each channel: (its intensity, from 0 to 1) ** exponent * factor + shift, with numbers drawn for each.

    Args:
        factor: the smallest and the largest.
        shift: the smallest and the largest, as a share of the full intensity.
        gamma: the smallest and the largest exponent; its logarithm is uniform.
        p: the probability that an image is changed.
    """

    def __init__(
        self,
        factor: tuple[float, float] = (1.0, 1.0),
        shift: tuple[float, float] = (0.0, 0.0),
        gamma: tuple[float, float] = (1.0, 1.0),
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.factor, self.shift, self.gamma = factor, shift, gamma

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """A table per channel, (C, 256) uint8: the new intensity of each."""
        count, draw = data["image"].shape[2], self.random_generator.uniform
        factor, shift, exponent = (draw(*span, count) for span in (self.factor, self.shift, np.log(self.gamma)))
        values = (np.arange(256) / 255) ** np.exp(exponent)[:, None] * factor[:, None] + shift[:, None]
        return {"tables": np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)}

    def apply(self, img: NDArray[np.uint8], tables: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        """An (H, W, C) image by its channels' tables."""
        return np.stack([table[img[..., channel]] for channel, table in enumerate(tables)], axis=2)
