"""Augmentation of training samples: one albumentations pipeline over image and label maps, inside Detectron2.

The defaults are those of the recipe, the course benchmark's settings that ``configs/ablations/original_recipe.yaml``
keeps.
"""

from __future__ import annotations

import cellseg_d2  # noqa: F401  (sets NO_ALBUMENTATIONS_UPDATE before albumentations is imported) # isort: skip

import albumentations as A
import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from numpy.typing import NDArray

from cellseg_d2.data.channel_intensity import GAMMAS, channel_transforms
from cellseg_d2.images.resize import resized

MAX_SEED = 2**31

GAMMA_PERCENT = (round(100 * GAMMAS[0]), round(100 * GAMMAS[1]))
"""Exponents 0.5 to 2 in percent, as albumentations expects them."""

SMALLEST_BLUR, SMALLEST_NOISE = 0.3, 0.01
"""The smallest values drawn, below which no difference is visible: in pixels, and as a share of the full intensity."""


def build_augmentation(cfg: CfgNode) -> T.AugmentationList:
    """The augmentations of a training sample: a random crop (INPUT.CROP, CELLSEG.AUG.ZOOM_RANGE), then the transforms.

    The pixels are not normalised here: the model subtracts MODEL.PIXEL_MEAN and divides by MODEL.PIXEL_STD itself.
    """
    augmentations: list[T.Augmentation] = []
    low, high = cfg.CELLSEG.AUG.ZOOM_RANGE
    if (low, high) != (1, 1):
        size = tuple(cfg.INPUT.CROP.SIZE) if cfg.INPUT.CROP.ENABLED else None
        augmentations.append(ZoomedCrop((low, high), size))
    elif cfg.INPUT.CROP.ENABLED:
        augmentations.append(T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    augmentations.append(AlbumentationsAugmentation(build_pipeline(cfg)))
    return T.AugmentationList(augmentations)


def build_pipeline(cfg: CfgNode) -> A.Compose:
    """The transforms of CELLSEG.AUG, in the recipe's order; those of intensities suit RGB or CELLSEG.CHANNELS."""
    aug = cfg.CELLSEG.AUG
    shift, scale = aug.SHIFT_LIMIT, aug.SCALE_LIMIT
    return A.Compose(
        [
            A.HorizontalFlip(p=aug.HORIZONTAL_FLIP_PROB),
            A.VerticalFlip(p=aug.VERTICAL_FLIP_PROB),
            A.RandomRotate90(p=aug.QUARTER_TURN_PROB),
            # The successor of ShiftScaleRotate. Image and label map are 0 outside the image, because a reflected border
            # would give a cell and its mirror image the same label.
            A.Affine(
                translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
                scale=(1 - scale, 1 + scale),
                rotate=(-aug.ROTATE_LIMIT_DEGREES, aug.ROTATE_LIMIT_DEGREES),
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST,
                border_mode=cv2.BORDER_CONSTANT,
                fill=0,
                fill_mask=0,
                p=aug.AFFINE_PROB,
            ),
            *(channel_transforms(aug) if cfg.CELLSEG.CHANNELS else _colour_transforms(aug)),
            A.GaussianBlur(blur_limit=0, sigma_limit=(SMALLEST_BLUR, aug.BLUR_SIGMA), p=aug.BLUR_PROB),
            A.GaussNoise(std_range=(SMALLEST_NOISE, aug.NOISE_STD), p=aug.NOISE_PROB),
        ],
        save_applied_params=True,  # the mapper needs the scale of the warp
    )


def _colour_transforms(aug: CfgNode) -> list[A.BasicTransform]:
    """The transforms of intensities and colours of RGB images."""
    return [
        A.RandomBrightnessContrast(
            brightness_limit=aug.BRIGHTNESS_LIMIT,
            contrast_limit=aug.CONTRAST_LIMIT,
            p=aug.BRIGHTNESS_CONTRAST_PROB,
        ),
        A.HueSaturationValue(
            hue_shift_limit=aug.HUE_LIMIT,
            sat_shift_limit=aug.SATURATION_LIMIT,
            val_shift_limit=aug.VALUE_LIMIT,
            p=aug.HUE_SATURATION_PROB,
        ),
        A.ToGray(p=aug.GRAY_PROB),
        A.InvertImg(p=aug.INVERT_PROB),
        A.RandomGamma(gamma_limit=GAMMA_PERCENT, p=aug.GAMMA_PROB),
    ]


def area_scale(transforms: T.TransformList) -> float:
    """The factor by which the transforms of one run have changed areas; crops and flips do not change them."""
    return float(np.prod([getattr(transform, "area_scale", 1.0) for transform in transforms.transforms]))


class ZoomedCrop(T.Augmentation):
    """A random crop, enlarged or reduced by a random factor, whose logarithm is uniform.

    Args:
        zoom_range: smallest and largest factor.
        size: the largest (height, width) in pixels, after the change of scale; None keeps the whole image.
    """

    def __init__(self, zoom_range: tuple[float, float], size: tuple[int, int] | None) -> None:
        super().__init__()
        self.zoom_range = zoom_range
        self.size = size

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        """Crops and resizes ``aug_input`` in place."""
        zoom = float(np.exp(np.random.uniform(*np.log(self.zoom_range))))
        height, width = aug_input.image.shape[:2]
        tall, wide = (height, width) if self.size is None else (round(side / zoom) for side in self.size)
        tall, wide = min(height, max(tall, 1)), min(width, max(wide, 1))
        top, left = np.random.randint(height - tall + 1), np.random.randint(width - wide + 1)
        transform = ZoomTransform(top, left, tall, wide, zoom)
        aug_input.image = transform.apply_image(aug_input.image)
        if aug_input.sem_seg is not None:
            aug_input.sem_seg = transform.apply_segmentation(aug_input.sem_seg)
        return transform


class ZoomTransform(T.Transform):
    """Takes one window out of an image and changes its scale."""

    def __init__(self, top: int, left: int, height: int, width: int, zoom: float) -> None:
        super().__init__()
        self.window = (slice(top, top + height), slice(left, left + width))
        self.shape = (max(round(height * zoom), 1), max(round(width * zoom), 1))
        self.area_scale = self.shape[0] * self.shape[1] / (height * width)

    def apply_image(self, img: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resizes the window: linear interpolation, or averages where it shrinks."""
        interpolation = cv2.INTER_AREA if self.area_scale < 1 else cv2.INTER_LINEAR
        return resized(img[self.window], self.shape, interpolation)

    def apply_segmentation(self, segmentation: NDArray[np.int32]) -> NDArray[np.int32]:
        """Each pixel takes its nearest neighbour's label."""
        window = segmentation[self.window]
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(self.shape, window.shape)
        )
        return window[rows[:, None], columns]

    def apply_coords(self, coords: NDArray[np.float32]) -> NDArray[np.float32]:
        """Not supported, because boxes are taken from the transformed label maps, which are exact."""
        raise TypeError("take boxes from the transformed label map")


class AlbumentationsTransform(T.Transform):
    """One run of a pipeline, fixed by its seed."""

    def __init__(self, pipeline: A.Compose, seed: int) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.seed = seed
        self.area_scale = 1.0

    def apply_both(
        self, image: NDArray[np.uint8], label_maps: NDArray[np.int32] | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
        """Transforms image (H, W, C) and label maps (H, W[, L]) in one pass; labels without interpolation.

        Afterwards ``area_scale`` is the factor by which areas have changed.
        """
        self.pipeline.set_random_seed(self.seed)
        inputs = {"image": image} if label_maps is None else {"image": image, "mask": label_maps}
        result = self.pipeline(**inputs)
        matrices = [params["matrix"] for _, params in result["applied_transforms"] if "matrix" in params]
        self.area_scale = float(np.prod([abs(np.linalg.det(matrix[:2, :2])) for matrix in matrices]))
        return result["image"], result.get("mask")

    def apply_image(self, img: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image as this run transforms it."""
        return self.apply_both(img, None)[0]

    def apply_segmentation(self, segmentation: NDArray[np.int32]) -> NDArray[np.int32]:
        """The label maps as this run transforms them."""
        image = np.zeros((*segmentation.shape[:2], 3), np.uint8)
        label_maps = self.apply_both(image, segmentation)[1]
        assert label_maps is not None
        return label_maps

    def apply_coords(self, coords: NDArray[np.float32]) -> NDArray[np.float32]:
        """Not supported, because boxes are taken from the transformed label maps, which are exact."""
        raise TypeError("albumentations pipelines carry label maps, not coordinates; take boxes from the label map")


class AlbumentationsAugmentation(T.Augmentation):
    """Runs an albumentations pipeline inside Detectron2's ``AugmentationList``.

    The label maps are passed as ``AugInput.sem_seg``. The cost does not depend on the number of cells.
    """

    def __init__(self, pipeline: A.Compose) -> None:
        super().__init__()
        self.pipeline = pipeline

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        """Augments ``aug_input`` in place. The seed comes from numpy's global state, which Detectron2 uses too."""
        transform = AlbumentationsTransform(self.pipeline, int(np.random.randint(MAX_SEED)))
        aug_input.image, aug_input.sem_seg = transform.apply_both(aug_input.image, aug_input.sem_seg)
        return transform
