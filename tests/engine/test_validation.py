import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from drawing import write_drawn_dataset

import cellseg_d2
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.engine.run_config import build_cfg
from cellseg_d2.engine.validation import validation_losses


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    write_drawn_dataset(root / "input", images=5)
    convert(root / "input", root / "datasets" / "validated", ConvertOptions(val_fraction=0.4))
    cellseg_d2.setup(root / "datasets")
    keys = {
        "CELLSEG.DATASET": "validated",
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.EFFICIENTNET_LITE.NORM": "BN",
        "DATALOADER.NUM_WORKERS": "0",
    }
    return build_cfg("mask_rcnn_lite0_FPN", [text for pair in keys.items() for text in pair])


@pytest.fixture(scope="module")
def model(cfg):
    torch.manual_seed(0)
    return build_model(cfg).train()


def test_all_losses_are_given_and_the_total(cfg, model):
    losses = validation_losses(model, cfg, "validated_val")
    names = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask", "loss_shape"}
    assert set(losses) == names | {"total_loss"}
    assert losses["total_loss"] == pytest.approx(sum(losses[name] for name in names))
    assert all(0 < loss < 20 for loss in losses.values())


def test_neither_weights_nor_statistics_nor_random_state_nor_log_notice(cfg, model):
    next(model.backbone.bottom_up.children()).eval()  # whatever mode a part was in
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    with EventStorage() as storage:
        first = validation_losses(model, cfg, "validated_val")
        assert not storage.latest()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.rand(7)
    assert validation_losses(model, cfg, "validated_val") == first  # what is sampled does not depend on the state


def test_they_are_losses_of_the_tiles_as_they_are(cfg, model):
    brighter = cfg.clone()
    brighter.defrost()
    brighter.CELLSEG.AUG.BRIGHTNESS_CONTRAST_PROB, brighter.CELLSEG.AUG.BRIGHTNESS_LIMIT = 1.0, 0.9
    losses = validation_losses(model, cfg, "validated_val")
    assert validation_losses(model, brighter, "validated_val") == losses
