import logging
import pickle

import numpy as np
import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

import cellseg_d2.modeling  # noqa: F401  (registers backbones and heads)
from cellseg_d2.config import config_names, get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.weights.checkpoint import CellCheckpointer, WeightsFile
from cellseg_d2.weights.locations import PUBLISHED, local_path, register_package_weights
from cellseg_d2.weights.pretrained import CAFFE2, EFFICIENTNET_LITE, FAIR, MSRA, TORCHVISION, recognise

R_50 = "mask_rcnn_R_50_FPN"
X_101 = "mask_rcnn_X_101_32x8d_FPN"
LITE = "mask_rcnn_lite0_FPN"
RGB = [part for key, value in TORCHVISION.settings.items() for part in (key, str(value))]
"""What makes a config fit torchvision's weights."""


def _cfg(name, *overrides):
    return get_cfg(name, ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", "", *overrides])


def _saved(content, path):
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    return str(path)


def _with_statistics(network):
    """The network with batch normalisation that does something, as after training."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.0)
            module.bias.data.uniform_(-0.1, 0.1)
    return network.eval()


def _caffe2_resnet(groups=1, variance=0.3):
    """The weights by which a ResNet that was trained with Caffe2 is told, and some that Detectron2 has no use for."""
    weights = {
        "conv1_w": np.zeros((64, 3, 7, 7), np.float32),
        "res2_0_branch2b_w": np.zeros((256, 256 // groups, 3, 3), np.float32),
        "fc1000_w": np.zeros((10, 2048), np.float32),
        "fc1000_w_momentum": np.zeros((10, 2048), np.float32),
    }
    if variance is not None:
        weights["res_conv1_bn_running_var"] = np.full(64, variance, np.float32)
    return weights


@pytest.mark.parametrize(
    ("network", "config", "wrapped"),
    [("resnet50", R_50, False), ("resnet50", R_50, True), ("resnext101_32x8d", X_101, False)],
    ids=["ResNet", "ResNet, saved from DataParallel", "ResNeXt"],
)
def test_torchvisions_networks_give_torchvisions_features(network, config, wrapped, tmp_path, caplog):
    torch.manual_seed(0)
    theirs = _with_statistics(getattr(models, network)(weights=None))
    weights = theirs.state_dict()
    content = {"model": {f"module.{name}": value for name, value in weights.items()}} if wrapped else weights
    path = _saved(content, tmp_path / "network.pth")
    cfg = _cfg(config, *RGB)
    ours = build_backbone(cfg).eval()
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        CellCheckpointer(ours, cfg, strict=False).load(path)
    (tmp_path / "network.pth").unlink()  # hundreds of megabytes
    image = torch.randn(1, 3, 96, 64)
    stages = {f"layer{number}": f"res{number + 1}" for number in range(1, 5)}
    with torch.inference_mode():
        expected = create_feature_extractor(theirs, stages)(image)
        features = ours.bottom_up(image)
    for name, value in expected.items():
        torch.testing.assert_close(features[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()), msg=name)
    assert "not used: fc (2 tensors)" in caplog.text
    assert "bottom_up" not in caplog.text.partition("initialised randomly")[2]  # all of the network was found


@pytest.mark.parametrize("form", ["as released", "as saved now"])
def test_torchvisions_mask_rcnn_computes_the_same_in_every_part(form, tmp_path, caplog):
    torch.manual_seed(0)
    theirs = models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4).eval()
    weights = theirs.state_dict()
    if form == "as released":  # torchvision's own file is older than the Conv2dNormActivation that adds these zeros
        for name in list(weights):
            old = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
            if name.startswith("backbone.fpn."):
                old = old.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
            if name.startswith("roi_heads.mask_head."):
                number = int(name.split(".")[2])
                old = old.replace(f"mask_head.{number}.0.", f"mask_head.mask_fcn{number + 1}.")
            weights[old] = weights.pop(name)
    cfg = _cfg(R_50, *RGB, "MODEL.ROI_HEADS.NUM_CLASSES", "3")
    ours = build_model(cfg).eval()
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        CellCheckpointer(ours, cfg, strict=True).load(_saved(weights, tmp_path / "maskrcnn.pth"))
    assert "initialised randomly" not in caplog.text and "not used" not in caplog.text
    with torch.inference_mode():
        image, boxes, masks = torch.randn(1, 3, 64, 64), torch.randn(2, 256, 7, 7), torch.randn(2, 256, 14, 14)
        expected, features = theirs.backbone(image), ours.backbone(image)
        for one, other in zip(expected.values(), features.values()):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
        for one, other in zip(
            theirs.rpn.head(list(expected.values())), ours.proposal_generator.rpn_head(list(features.values()))
        ):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
        heads = ours.roi_heads
        logits, deltas = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(boxes))
        our_logits, our_deltas = heads.box_predictor(heads.box_head(boxes))
        torch.testing.assert_close(our_logits, logits[:, [1, 2, 3, 0]])
        torch.testing.assert_close(our_deltas, deltas[:, 4:])
        torch.testing.assert_close(
            heads.mask_head.layers(masks), theirs.roi_heads.mask_predictor(theirs.roi_heads.mask_head(masks))[:, 1:]
        )


def test_heads_that_detectron2_has_no_equal_of_begin_afresh(tmp_path, caplog):
    theirs = models.detection.maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=4)
    cfg = _cfg(R_50, *RGB, "MODEL.ROI_HEADS.NUM_CLASSES", "3")
    ours = build_model(cfg)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        CellCheckpointer(ours, cfg, strict=False).load(_saved(theirs.state_dict(), tmp_path / "v2.pth"))
    fresh, _, unused = caplog.text.partition("initialised randomly: ")[2].partition("; not used: ")
    assert "proposal_generator" in fresh and "roi_heads" in fresh and "bottom_up" not in fresh
    assert unused.startswith("torchvision (")
    torch.testing.assert_close(ours.backbone.bottom_up.stem.conv1.weight.data, theirs.backbone.body.conv1.weight.data)


def test_caffe2s_networks_find_their_layers(tmp_path, caplog):
    weights = {
        "conv1_w": np.ones((64, 3, 7, 7), np.float32),
        "conv1_b": np.ones(64, np.float32),
        "res_conv1_bn_gamma": np.full(64, 2.0, np.float32),
        "res_conv1_bn_running_var": np.full(64, 3.0, np.float32),
        "res2_0_branch2b_w": np.full((64, 64, 3, 3), 4.0, np.float32),
        "res2_0_branch1_w": np.full((256, 64, 1, 1), 5.0, np.float32),
        "fc1000_w": np.zeros((10, 2048), np.float32),
    }
    cfg = _cfg(R_50)
    backbone = build_backbone(cfg)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        CellCheckpointer(backbone, cfg, strict=False).load(_saved(weights, tmp_path / "R-50.pkl"))
    stem, block = backbone.bottom_up.stem.conv1, backbone.bottom_up.res2[0]
    tensors = stem.weight, stem.norm.weight, stem.norm.running_var, block.conv2.weight, block.shortcut.weight
    assert [float(tensor.detach().unique()) for tensor in tensors] == [1, 2, 3, 4, 5]
    assert "not used: fc1000, stem.conv1.bias" in caplog.text


@pytest.mark.parametrize(
    ("content", "origin"),
    [
        (_caffe2_resnet(), MSRA),
        ({"blobs": _caffe2_resnet()}, MSRA),
        (_caffe2_resnet(groups=32), FAIR),
        (_caffe2_resnet(groups=32, variance=None), CAFFE2),
        ({"conv1_w": np.zeros((64, 3, 7, 7), np.float32), "pred_w": np.zeros((2, 2), np.float32)}, None),
        ({"model": {"stem.conv1.weight": np.zeros(1)}, "__author__": "torchvision"}, TORCHVISION),
        ({"model": {"stem.conv1.weight": np.zeros(1)}, "__author__": "somebody"}, None),
        ({"layer1.0.conv1.weight": torch.zeros(1)}, TORCHVISION),
        ({"model": {"backbone.body.layer1.0.conv1.weight": torch.zeros(1)}}, TORCHVISION),
        ({"_blocks.0._depthwise_conv.weight": torch.zeros(1)}, EFFICIENTNET_LITE),
        ({"_blocks.0._depthwise_conv.weight": torch.zeros(1), "_blocks.0._se_reduce.weight": torch.zeros(1)}, None),
        ({"some.weight": torch.zeros(1)}, None),
    ],
)
def test_a_files_origin_is_told_by_its_content(content, origin):
    assert recognise(content, "a file").origin == origin


@pytest.mark.parametrize(
    ("shape", "variance", "origin"),
    [((64, 64, 3, 3), 0.3, MSRA), ((256, 8, 3, 3), 0.3, FAIR), ((256, 8, 3, 3), 1.0, CAFFE2), (None, 0.3, None)],
)
def test_the_zoos_coco_models_are_told_by_what_they_began_from(shape, variance, origin):
    weights = {"backbone.bottom_up.stem.conv1.norm.running_var": np.full(64, variance, np.float32)}
    if shape:
        weights["backbone.bottom_up.res2.0.conv2.weight"] = np.zeros(shape, np.float32)
    content = {"model": weights, "__author__": "Detectron2 Model Zoo"}
    assert recognise(content, "a file").origin == origin
    weights["backbone.fpn_lateral2.norm.num_batches_tracked"] = np.zeros(())
    assert recognise(content, "a file").origin is None


@pytest.mark.parametrize("name", [name for name in config_names() if get_cfg(name).MODEL.WEIGHTS])
def test_the_shipped_configs_go_with_their_weights(name, tmp_path):
    cfg = _cfg(name)
    if cfg.MODEL.WEIGHTS.startswith("package://"):
        register_package_weights()
        path = local_path(cfg.MODEL.WEIGHTS)
        assert recognise(torch.load(path, weights_only=True), path).origin == EFFICIENTNET_LITE
    elif cfg.MODEL.WEIGHTS in PUBLISHED:
        path = local_path(cfg.MODEL.WEIGHTS)
    else:
        groups = cfg.MODEL.RESNETS.NUM_GROUPS
        path = _saved(_caffe2_resnet(groups), tmp_path / "network.pkl")
    WeightsFile.read(path).check_origin(cfg)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("INPUT.FORMAT", "BGR", r"set INPUT.FORMAT RGB, or"),
        ("MODEL.PIXEL_MEAN", "[103.53,116.28,123.675]", r"set MODEL.PIXEL_MEAN '\[123.675, 116.28, 103.53\]', or"),
        ("MODEL.PIXEL_STD", "[1.0,1.0,1.0]", r"set MODEL.PIXEL_STD '\[58.395, 57.12, 57.375\]', or"),
        ("MODEL.RESNETS.STRIDE_IN_1X1", "True", r"set MODEL.RESNETS.STRIDE_IN_1X1 False, or"),
    ],
)
def test_weights_that_want_other_input_are_refused(key, value, said, tmp_path):
    path = _saved({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet50.pth")
    WeightsFile.read(path).check_origin(_cfg(R_50, *RGB))
    with pytest.raises(CellSegError, match=rf"resnet50.pth: holds torchvision's network.*{said}"):
        WeightsFile.read(path).check_origin(_cfg(R_50, *RGB, key, value))
    WeightsFile.read(path).check_origin(_cfg(R_50, *RGB, key, value, "CELLSEG.CHECK_WEIGHTS_ORIGIN", "False"))


def test_detectrons_and_detectron2s_means_are_taken_for_one(tmp_path):
    path = _saved(_caffe2_resnet(), tmp_path / "R-50.pkl")
    WeightsFile.read(path).check_origin(_cfg(R_50, "MODEL.PIXEL_MEAN", "[102.9801,115.9465,122.7717]"))


def test_a_checkpoint_of_ours_knows_what_it_was_trained_on(tmp_path):
    trained = get_cfg(LITE, ["OUTPUT_DIR", str(tmp_path)])
    CellCheckpointer(torch.nn.Linear(2, 2), trained, strict=False).save_weights("model_final")
    path = str(tmp_path / "model_final.pth")
    WeightsFile.read(path).check_origin(_cfg(LITE, "MODEL.ROI_HEADS.NUM_CLASSES", "7"))
    with pytest.raises(CellSegError, match=r"other settings.*set INPUT.FORMAT RGB, or"):
        WeightsFile.read(path).check_origin(_cfg(LITE, "INPUT.FORMAT", "BGR"))


def test_a_file_of_unknown_origin_is_said_to_be_unchecked(tmp_path, caplog):
    path = _saved({"model": {"some.weight": torch.zeros(1)}}, tmp_path / "foreign.pth")
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        WeightsFile.read(path).check_origin(_cfg(LITE))
    assert "foreign.pth: does not tell which INPUT.FORMAT" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": 5}, "holds a int in place of weights"),
        ({"state_dict": {"a.weight": torch.zeros(1)}}, "state_dict is no tensor with a name, but a dict; keep only"),
        ({1: torch.zeros(1)}, "1 is no tensor with a name"),
    ],
)
def test_files_with_more_in_them_than_weights_are_refused(content, said, tmp_path):
    with pytest.raises(CellSegError, match=said):
        WeightsFile.read(_saved(content, tmp_path / "other.pth")).check_origin(_cfg(LITE))


def test_arrays_of_text_are_no_weights():
    with pytest.raises(CellSegError, match=r"other.pkl: a.weight: can't convert"):
        recognise({"a.weight": np.array(["text"])}, "other.pkl")
