import logging
from pathlib import Path

import pytest
import torch
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model
from drawing import write_drawn_dataset

import cellseg_d2
from cellseg_d2.config import get_cfg
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.engine.run_config import build_cfg, check_processes, check_run, prediction_cfg, resolve
from cellseg_d2.errors import CellSegError
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.modeling.build import build_on_cpu, cpu_computes_bfloat16, use_available_precision
from cellseg_d2.weights import checkpoint
from cellseg_d2.weights.checkpoint import CellCheckpointer, open_weights

LITE = "mask_rcnn_lite0_FPN"


def _args(*opts, flags=()):
    return default_argument_parser().parse_args(["--config-file", LITE, *flags, *opts])


def test_what_depends_on_the_dataset_is_filled_in(nuclei):
    cfg = build_cfg(LITE, ["CELLSEG.DATASET", "nuclei"])
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("nuclei_train",), ("nuclei_val",))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4
    assert cfg.CELLSEG.CLASS_NAMES == ["class1", "class2", "class3", "class4"]
    assert cfg.is_frozen()


def test_evaluation_takes_the_untiled_images_too(nuclei):
    cfg = build_cfg(LITE, ["CELLSEG.DATASET", "nuclei"], whole_images=True)
    assert cfg.DATASETS.TEST == ("nuclei_val", "nuclei_val_whole")


def test_a_config_must_be_named():
    with pytest.raises(CellSegError, match="--config-file"):
        build_cfg("", [])


def test_a_dataset_given_detectron2s_way_wins(nuclei):
    cfg = build_cfg(LITE, ["DATASETS.TRAIN", "('nuclei_val',)"])
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("nuclei_val",), ())


def test_epochs_become_iterations_only_where_none_are_given(nuclei):
    tiles = 53  # of the sample's training part
    schedule = ["CELLSEG.SCHEDULE", "epochs", "CELLSEG.EPOCHS", "3"]
    epochs = get_cfg(LITE, ["CELLSEG.DATASET", "nuclei", "SOLVER.MAX_ITER", "0", *schedule])
    resolve(epochs)
    assert epochs.SOLVER.MAX_ITER == -(-3 * tiles // epochs.SOLVER.IMS_PER_BATCH)
    iterations = get_cfg(LITE, ["CELLSEG.DATASET", "nuclei", "SOLVER.MAX_ITER", "7"])
    resolve(iterations)
    assert iterations.SOLVER.MAX_ITER == 7


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cpu_computes_in_bfloat16_where_it_can_and_never_in_float16(dtype, nuclei):
    precision = ["SOLVER.AMP.ENABLED", "True", "CELLSEG.AMP_DTYPE", dtype]
    cfg = get_cfg(LITE, ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", *precision])
    resolve(cfg)
    assert cfg.SOLVER.AMP.ENABLED == (dtype == "bfloat16" and cpu_computes_bfloat16())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags : fpu avx512f avx512_bf16 fma", True),
        ("flags : amx_bf16 amx_tile", True),
        ("flags : fpu avx2", False),
        (None, False),
    ],
)
def test_linux_tells_whether_a_cpu_has_bfloat16(text, expected, tmp_path):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert cpu_computes_bfloat16(tmp_path / "cpuinfo") == expected


def test_published_weights_are_begun_from_with_other_classes(nuclei, caplog):
    args = _args("CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "nuclei")
    cfg = build_cfg(LITE, args.opts)
    opened = check_run(cfg, args)
    model = build_model(cfg)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        CellCheckpointer(model, cfg, strict=False, opened=opened).load(cfg.MODEL.WEIGHTS)
    assert f"each of the {cfg.MODEL.ROI_HEADS.NUM_CLASSES} begins with what they know of it" in caplog.text
    assert caplog.text.count("initialised randomly") == 1
    assert "initialised randomly: roi_heads.mask_head.shape_classifier (6 tensors)" in caplog.text
    published = opened.content["model"]["backbone.fpn_lateral2.weight"]
    assert torch.equal(model.backbone.fpn_lateral2.weight, published.float())


@pytest.mark.parametrize(
    ("weights", "config", "named"),
    [
        ("", "", "give --weights: a checkpoint"),
        ("a.pth", LITE, "give either --weights"),
        ("", LITE, r"mask_rcnn_lite0_FPN names no trained weights; give --weights CHECKPOINT"),
        ("", "ablations/backbone_R50_laptop", "add MODEL.WEIGHTS CHECKPOINT"),
        ("", "mask_rcnn_R_50_FPN", "names no trained weights; give --weights CHECKPOINT"),
    ],
)
def test_prediction_without_trained_weights_says_what_to_give(weights, config, named, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))  # not even the dataset of the config is there
    with pytest.raises(CellSegError, match=named):
        prediction_cfg(weights, config, [])


def test_cuda_falls_back_to_the_cpu_where_there_is_none(nuclei):
    cfg = build_cfg(LITE, ["CELLSEG.DATASET", "nuclei"])
    assert cfg.MODEL.DEVICE == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("opts", "named"),
    [
        (["CELLSEG.DATASET", ""], "CELLSEG.DATASET"),
        (["CELLSEG.DATASET", "nowhere"], "'nowhere_train' is not registered.*nuclei_train"),
        (["CELLSEG.DATASET", "nuclei", "DATASETS.TEST", "('x',)"], "'x' is not registered"),
        (["CELLSEG.DATASET", "nuclei", "MODEL.ROI_HEADS.NUM_CLASSES", "7"], "NUM_CLASSES is 7.*4 classes"),
    ],
    ids=["no dataset", "unknown dataset", "unknown validation dataset", "wrong class count"],
)
def test_a_config_that_does_not_fit_the_data_is_refused(opts, named, nuclei):
    with pytest.raises(CellSegError, match=named):
        build_cfg(LITE, opts)


@pytest.mark.parametrize(
    ("opts", "flags", "named"),
    [
        ([], ["--num-gpus", "0"], "give at least one process"),
        ([], ["--num-machines", "0"], "give at least one process"),
        ([], ["--num-machines", "2", "--machine-rank", "2"], "ranks from 0"),
        ([], ["--num-machines", "2", "--dist-url", "auto"], "needs --dist-url"),
        (["CELLSEG.MAX_PARAMETERS", "1000"], [], "over the limit"),
        (["DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"], [], "write TrainingSampler or"),
        (["SOLVER.IMS_PER_BATCH", "3"], ["--num-gpus", "2"], "IMS_PER_BATCH 3"),
        (["MODEL.WEIGHTS", ""], ["--eval-only"], "MODEL.WEIGHTS"),
        (["MODEL.WEIGHTS", "nowhere.pth"], ["--eval-only"], "nowhere.pth"),
        (["MODEL.WEIGHTS", "nowhere.pth"], [], "nowhere.pth"),
        (["MODEL.WEIGHTS", "catalog://nothing"], [], "cannot be fetched"),
        (["DATASETS.TRAIN", "('nuclei_train',)"], ["--eval-only"], "no validation part"),
        (["INPUT.FORMAT", "BGR"], [], "set INPUT.FORMAT RGB"),
        (["CELLSEG.AMP_DTYPE", "float8"], [], "write float16 or bfloat16"),
        (["CELLSEG.EMA_DECAY", "1.0"], [], "EMA_DECAY is 1.0"),
        (["CELLSEG.BEST_METRIC", "ema/segm/AP50"], [], "leave out ema/"),
        (["CELLSEG.EARLY_STOPPING", "3", "TEST.EVAL_PERIOD", "0"], [], "needs TEST.EVAL_PERIOD"),
        (["CELLSEG.AUG.COPY_PASTE_PROB", "2.0"], [], "a number from 0 to 1"),
        (["SOLVER.STEPS", "(100, 200)"], [], "SOLVER.STEPS has no effect on WarmupCosineLR"),
        (
            [
                *("CELLSEG.LOSS.MASK", "dice_bce", "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
                *("CELLSEG.SHAPE_CLASSIFIER", "False"),
            ],
            [],
            "LOSS.MASK",
        ),
    ],
    ids=[
        *("no process", "no machine", "rank", "url", "parameters", "sampler", "batch"),
        *("no weights", "no such file", "no such file to begin from", "no such URL", "no val"),
        *(
            "weights of another channel order",
            "precision",
            "average",
            "metric of the average",
            "stopping",
            "copy-paste",
            "steps in vain",
            "a loss key in vain",
        ),
    ],
)
def test_what_would_end_in_a_launched_process_is_refused_before(opts, flags, named, nuclei):
    args = _args("MODEL.DEVICE", "cpu", "CELLSEG.DATASET", "nuclei", *opts, flags=flags)
    with pytest.raises(CellSegError, match=named):
        check_run(build_cfg(args.config_file, args.opts), args)


def test_a_tag_without_its_checkpoint_is_refused(nuclei, tmp_path):
    (tmp_path / "last_checkpoint").write_text("")
    args = _args("MODEL.DEVICE", "cpu", "CELLSEG.DATASET", "nuclei", "OUTPUT_DIR", str(tmp_path), flags=["--resume"])
    with pytest.raises(CellSegError, match="names no checkpoint that is there"):
        check_run(build_cfg(args.config_file, args.opts), args)


@pytest.mark.parametrize(("key", "name"), [("PROPOSAL_GENERATOR", "RPN"), ("ROI_HEADS", "CascadeROIHeads")])
def test_heads_that_would_look_for_crowds_are_refused(key, name, nuclei):
    with pytest.raises(CellSegError, match="IGNORE_CROWD needs"):
        build_cfg(LITE, ["CELLSEG.DATASET", "nuclei", f"MODEL.{key}.NAME", name])


@pytest.mark.parametrize(
    ("device", "processes", "named"),
    [("cuda", 999, "start as many"), ("cpu", 2, "MODEL.DEVICE cuda, not cpu"), ("cuda:0", 2, "not cuda:0")],
)
def test_a_machine_with_gpus_gives_each_process_one(device, processes, named):
    cfg = get_cfg(LITE, ["MODEL.DEVICE", device])
    if torch.cuda.is_available():
        with pytest.raises(CellSegError, match=named):
            check_processes(cfg, processes)
    else:
        check_processes(cfg, processes)  # processes on the CPU, as many as one likes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("TILE_SIZE", "0"), ("OVERLAP", "1.0"), ("BATCH_SIZE", "0"), ("SUPPRESSION", "gentle"), ("TOLERANCE", "-1")),
        *(("PIXEL_SIZE_UM", "-1.0"), ("SUPPRESSION_IOU", "0.0"), ("TTA.SCALES", "[0.0]")),
    ],
)
def test_values_of_prediction_that_cannot_be_meant_are_refused(key, value, nuclei):
    with pytest.raises(CellSegError, match=f"CELLSEG.INFERENCE.{key} is .*; write"):
        prediction_cfg("", LITE, ["CELLSEG.DATASET", "nuclei", f"CELLSEG.INFERENCE.{key}", value])


@pytest.fixture
def opened_files(monkeypatch):
    """The files of weights that are opened, in order."""
    paths = []

    def counted(path):
        paths.append(str(path))
        return open_weights(path)

    monkeypatch.setattr(checkpoint, "open_weights", counted)
    return paths


def test_a_prediction_reads_its_checkpoint_once(nuclei, tmp_path, opened_files):
    cfg = get_cfg(LITE, ["MODEL.ROI_HEADS.NUM_CLASSES", "4", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)])
    CellCheckpointer(build_model(cfg), cfg, strict=True).save_weights("model")
    loaded, opened = prediction_cfg(str(tmp_path / "model.pth"), "", [])
    WholeImagePredictor.from_cfg(loaded, opened)
    assert opened_files == [str(tmp_path / "model.pth")]
    WholeImagePredictor.from_checkpoint(tmp_path / "model.pth")
    assert opened_files == 2 * [str(tmp_path / "model.pth")]


def test_a_training_of_one_process_reads_its_weights_once(nuclei, tmp_path, opened_files):
    args = _args("CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path))
    cfg = build_cfg(LITE, args.opts)
    opened = check_run(cfg, args)
    CellCheckpointer(build_model(cfg), cfg, strict=False, opened=opened).load(cfg.MODEL.WEIGHTS)
    assert [Path(path).name for path in opened_files] == ["efficientnet-lite0-57934424.pth"]


def test_several_processes_read_their_weights_themselves(nuclei):
    args = _args("CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", flags=["--num-gpus", "2"])
    assert check_run(build_cfg(LITE, args.opts), args) is None


@pytest.mark.parametrize("flags", [["--resume"], ["--eval-only"], ["--eval-only", "--num-gpus", "2"]])
def test_a_checkpoint_of_other_classes_is_refused_before_anything_starts(flags, nuclei, tmp_path):
    names = ["class2", "class1", "class3", "class4"]  # as many, in another order
    opts = ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)]
    saved = get_cfg(LITE, ["CELLSEG.CLASS_NAMES", str(names), "OUTPUT_DIR", str(tmp_path)])
    CellCheckpointer(torch.nn.Linear(1, 1), saved, strict=True).save("model_final", iteration=3)
    args = _args(*opts, "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"), flags=flags)
    with pytest.raises(
        CellSegError, match=r"model_final\.pth: was trained on the classes class2, class1, class3, class4"
    ):
        check_run(build_cfg(LITE, args.opts), args)


def test_a_training_is_not_resumed_with_another_optimizer(nuclei, tmp_path):
    opts = ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)]
    sgd = ["CELLSEG.OPTIMIZER", "sgd", "SOLVER.BASE_LR", "0.02", "SOLVER.WEIGHT_DECAY", "0.0001"]
    before = build_cfg(LITE, [*opts, *sgd])
    CellCheckpointer(build_on_cpu(before), before, strict=True).save("model_0000003")
    args = _args(*opts, "CELLSEG.OPTIMIZER", "adamw", flags=["--resume"])
    with pytest.raises(CellSegError, match="training with sgd, whose state adamw cannot use") as refused:
        check_run(build_cfg(LITE, args.opts), args)
    (tmp_path / "config.yaml").write_text(before.dump())
    assert str(refused.value).endswith(f"--config-file {tmp_path / 'config.yaml'}")
    assert check_run(build_cfg(tmp_path / "config.yaml", []), args) is None


def test_a_training_is_not_resumed_with_another_model(nuclei, tmp_path):
    opts = ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)]
    before = build_cfg(LITE, [*opts, "CELLSEG.SHAPE_CLASSIFIER", "False"])
    CellCheckpointer(build_on_cpu(before), before, strict=True).save("model_0000003")
    args = _args(*opts, flags=["--resume"])
    with pytest.raises(CellSegError, match=r"another model, see roi_heads\.mask_head\.shape_classifier"):
        check_run(build_cfg(LITE, args.opts), args)
    assert check_run(before, args) is None


def test_steps_do_not_keep_a_model_from_evaluation(nuclei):
    opts = ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "SOLVER.STEPS", "(100,)", "MODEL.WEIGHTS", ""]
    args = _args(*opts, flags=["--eval-only"])
    with pytest.raises(CellSegError, match="--eval-only needs weights"):
        check_run(build_cfg(LITE, args.opts), args)


def test_a_schedule_from_the_data_has_no_steps(nuclei):
    keys = ["SOLVER.MAX_ITER", "0", "SOLVER.STEPS", "(100,)", "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"]
    cfg = build_cfg(LITE, ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", *keys])
    assert (cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.STEPS) == ("WarmupCosineLR", ())


@pytest.mark.parametrize(("capability", "kept"), [((7, 5), False), ((8, 0), True)])
def test_a_gpu_without_bfloat16_trains_in_full_precision(capability, kept, monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    cfg = get_cfg(LITE, ["MODEL.DEVICE", "cuda"])
    use_available_precision(cfg)
    assert cfg.SOLVER.AMP.ENABLED == kept


def test_a_validation_part_without_a_tile_is_left_out(tmp_path, caplog):
    write_drawn_dataset(tmp_path / "input", images=3)
    for label_map in (tmp_path / "input" / "train" / "image2").glob("class*.tif"):
        label_map.unlink()
    (tmp_path / "split.csv").write_text("id,split\nimage0,train\nimage1,train\nimage2,val\n")
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        convert(tmp_path / "input", tmp_path / "emptyval", ConvertOptions(), split_file=tmp_path / "split.csv")
    assert "the validation part has no cell in its 0 tiles" in caplog.text
    cellseg_d2.setup(tmp_path)
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        cfg = build_cfg(LITE, ["CELLSEG.DATASET", "emptyval", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    assert cfg.DATASETS.TEST == ()
    assert "emptyval_val has no tile: nothing is validated" in caplog.text
    with pytest.raises(CellSegError, match="emptyval_val has no image"):
        build_cfg(LITE, ["CELLSEG.DATASET", "emptyval", "DATASETS.TEST", "('emptyval_val',)"])
    args = _args("CELLSEG.DATASET", "emptyval", flags=["--eval-only"])
    with pytest.raises(CellSegError, match="has no validation part with a tile"):
        check_run(cfg, args)
