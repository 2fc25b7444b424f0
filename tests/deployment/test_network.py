"""A network as ONNX finds what Detectron2's model finds, in images of other sizes than that it was traced with."""

import onnxruntime
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torchvision.ops import box_iou

import cellseg_d2.modeling  # noqa: F401
from cellseg_d2.config import get_cfg
from cellseg_d2.deployment.deformable import SampledConv
from cellseg_d2.deployment.example import drawn_cells
from cellseg_d2.deployment.network import OUTPUTS, ImageNetwork, write_onnx

SHALLOW = ["MODEL.RESNETS.DEPTH", "50"]
"""For the ResNeXt-101s: the same kinds of layers, but fewer."""

MODELS = {
    "mask_rcnn_lite0_FPN": [],
    "finetune_nuclei": [],  # with classes from shapes
    "mask_rcnn_R_50_FPN": ["CELLSEG.BOX_SIZE_INPUT", "True"],
    "mask_rcnn_X_101_32x8d_DCNv2_FPN": SHALLOW,
    "cascade_mask_rcnn_X_101_32x8d_FPN": SHALLOW,
    "pointrend_rcnn_X_101_32x8d_FPN": SHALLOW,
}


def random_model(name, overrides):
    """A model of three classes whose random weights give boxes that differ clearly in place and score."""
    cfg = get_cfg(name, overrides)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.TEST.DETECTIONS_PER_IMAGE = "cpu", "", -1
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.POINT_HEAD.NUM_CLASSES = 3
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 10
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for part in model.modules():
        if isinstance(part, FrozenBatchNorm2d):
            part.weight.fill_(0.5)  # else activations grow from block to block
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "conv2_offset" in key:
                parameter.normal_(0, 0.05)
            elif "shape_classifier.layers.4.weight" in key:
                parameter.normal_(0, 0.1)
            elif "objectness_logits.weight" in key or "cls_score.weight" in key or "bbox_pred.weight" in key:
                parameter *= 30
    return model, cfg.INPUT.FORMAT


def matched(expected, found):
    """How many detections of one set are in the other one: of the same class, score, box and mask."""
    boxes, scores, classes, masks = expected
    near = (box_iou(boxes, found[0]) > 0.99) & (classes[:, None] == found[2])
    near &= (scores[:, None] - found[1]).abs() < 1e-3
    near &= (masks[:, None] - found[3]).abs().amax(dim=(2, 3)) < 0.01
    return int(near.any(dim=1).sum())


@pytest.mark.parametrize("name", MODELS)
def test_the_detections_are_the_same(name, tmp_path):
    model, image_format = random_model(name, MODELS[name])
    network = ImageNetwork(model, image_format)
    assert any(isinstance(part, SampledConv) for part in model.modules()) == ("DCN" in name)
    dark, bright = (
        torch.from_numpy(drawn_cells(is_dark).transpose(2, 0, 1)[None].copy()).float() for is_dark in (True, False)
    )
    dark[:, 0] *= 0.7  # the order of channels counts
    with torch.no_grad():
        assert len(network(dark)[0])
    write_onnx(network, dark, tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    for image in (dark, bright[:, :, :171, :203]):
        found = [torch.as_tensor(array) for array in session.run(list(OUTPUTS), {"image": image.numpy()})]
        with torch.no_grad():
            expected = network(image)
        assert len(found[0]) == len(expected[0]) > 0
        assert matched(expected, found) == len(expected[0])


@pytest.mark.parametrize("name", ["mask_rcnn_lite0_FPN", "pointrend_rcnn_X_101_32x8d_FPN"])
def test_an_image_without_cells_has_none(name, tmp_path):
    model, image_format = random_model(name, MODELS[name])
    model.roi_heads.box_predictor.test_score_thresh = 1.0
    network, image = ImageNetwork(model, image_format), torch.zeros(1, 3, 90, 100)
    write_onnx(network, image, tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    found = session.run(list(OUTPUTS), {"image": image.numpy()})
    assert [len(array) for array in found] == [0, 0, 0, 0]
