"""The recipe's augmentations: albumentations, as a Detectron2 ``Augmentation``, once over image and label maps."""

from __future__ import annotations

import cellseg_d2  # noqa: F401  (sets NO_ALBUMENTATIONS_UPDATE before albumentations is imported) # isort: skip

import albumentations as A
import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from numpy.typing import NDArray

MAX_SEED = 2**31


def build_augmentation(cfg: CfgNode) -> T.AugmentationList:
    """What a training sample goes through: Detectron2's random crop (INPUT.CROP), then the recipe's transforms.

    Normalisation is not among them: the model subtracts MODEL.PIXEL_MEAN and divides by MODEL.PIXEL_STD itself.
    """
    augmentations: list[T.Augmentation] = []
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    augmentations.append(AlbumentationsAugmentation(build_pipeline(cfg)))
    return T.AugmentationList(augmentations)


def build_pipeline(cfg: CfgNode) -> A.Compose:
    """The transforms of CELLSEG.AUG, in the recipe's order, for RGB images."""
    aug = cfg.CELLSEG.AUG
    shift, scale = aug.SHIFT_LIMIT, aug.SCALE_LIMIT
    return A.Compose(
        [
            A.HorizontalFlip(p=aug.HORIZONTAL_FLIP_PROB),
            A.VerticalFlip(p=aug.VERTICAL_FLIP_PROB),
            A.RandomRotate90(p=aug.QUARTER_TURN_PROB),
            # What ShiftScaleRotate became. Outside the image lies 0 in image and label map alike: a reflected border
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
        ],
        save_applied_params=True,  # the scale of a warp is needed afterwards
    )


def area_scale(transforms: T.TransformList) -> float:
    """The factor by which the transforms of one run have made areas grow; crops and flips leave them as they are."""
    return float(np.prod([getattr(transform, "area_scale", 1.0) for transform in transforms.transforms]))


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
        """Transforms image (H, W, 3) and label maps (H, W[, L]) in one pass; labels take their nearest neighbour's.

        Afterwards ``area_scale`` is the factor by which areas have grown.
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
        """Refused: boxes are taken from the transformed label maps, which are exact."""
        raise TypeError("albumentations pipelines carry label maps, not coordinates; take boxes from the label map")


class AlbumentationsAugmentation(T.Augmentation):
    """Runs an albumentations pipeline inside Detectron2's ``AugmentationList``.

    The label maps travel as ``AugInput.sem_seg``. The cost does not depend on the number of cells.
    """

    def __init__(self, pipeline: A.Compose) -> None:
        super().__init__()
        self.pipeline = pipeline

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        """Augments ``aug_input`` in place; the seed comes from numpy's global state, as in Detectron2's own."""
        transform = AlbumentationsTransform(self.pipeline, int(np.random.randint(MAX_SEED)))
        aug_input.image, aug_input.sem_seg = transform.apply_both(aug_input.image, aug_input.sem_seg)
        return transform
