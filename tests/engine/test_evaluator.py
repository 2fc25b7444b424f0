import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.engine.evaluator import CellCOCOEvaluator
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_ap import average_precision


def _predictions(sample, keep, seed=0):
    """A share of the ground truth as a model's output, with scores and moved masks: Detectron2's and ours."""
    rng = np.random.default_rng(seed)
    cells = [cell for cell in sample["annotations"] if not cell["iscrowd"] and rng.random() < keep]
    masks = np.stack([mask_util.decode(cell["segmentation"]) for cell in cells]).astype(bool)
    masks = np.roll(masks, rng.integers(-2, 3), axis=2)
    size = (sample["height"], sample["width"])
    output = Instances(size)
    output.pred_masks = torch.from_numpy(masks)
    boxes = torch.tensor([cell["bbox"] for cell in cells], dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    output.pred_boxes = Boxes(boxes)
    output.scores = torch.from_numpy(rng.random(len(cells)).astype(np.float32))
    output.pred_classes = torch.tensor([cell["category_id"] for cell in cells])
    cells = CellInstances(
        size,
        boxes.numpy(),
        output.scores.numpy(),
        output.pred_classes.numpy(),
        list(masks),
        np.zeros((len(masks), 2), np.int64),
    )
    return {"instances": output, "cells": cells}


def _evaluate(evaluator, samples, keep):
    evaluator.reset()
    for sample in samples:
        evaluator.process([sample], [_predictions(sample, keep)])
    return evaluator.evaluate()


@pytest.mark.parametrize("cap", [200, 500])
def test_it_agrees_with_detectron2s_own_evaluator(cap, nuclei):
    samples = [sample for sample in DatasetCatalog.get("nuclei_val") if len(sample["annotations"]) > 3]
    ours = _evaluate(CellCOCOEvaluator("nuclei_val", max_dets_per_image=cap), samples, keep=0.8)
    own = COCOEvaluator("nuclei_val", ("segm", "bbox"), max_dets_per_image=cap, use_fast_impl=False)
    theirs = _evaluate(own, samples, keep=0.8)
    for task in ("segm", "bbox"):
        assert ours[task]["AP50"] > 5  # the comparison is about something
        for metric in ("AP", "AP50", "AP75", "AP-class1", "AP-class4"):
            assert ours[task][metric] == pytest.approx(theirs[task][metric], abs=1e-6)


def test_no_cap_lies_below_what_an_image_holds(nuclei):
    most = max(len(sample["annotations"]) for sample in DatasetCatalog.get("nuclei_val"))
    assert CellCOCOEvaluator("nuclei_val", max_dets_per_image=1).max_detections == 2 * most > 1


def test_a_model_that_finds_nothing_scores_zero(nuclei):
    evaluator = CellCOCOEvaluator("nuclei_val", max_dets_per_image=100)
    evaluator.reset()
    for sample in DatasetCatalog.get("nuclei_val"):
        evaluator.process([sample], [{"cells": CellInstances.empty((sample["height"], sample["width"]))}])
    results = evaluator.evaluate()
    assert results["segm"]["AP50"] == 0
    assert json.dumps(results)


@pytest.mark.parametrize(
    "number",
    [lambda place: place, lambda place: 1, lambda place: -place, str, lambda place: None],
    ids=["from 0", "all the same", "negative", "text", "none"],
)
def test_annotation_ids_are_of_no_account(nuclei, tmp_path, monkeypatch, number):
    metadata = MetadataCatalog.get("nuclei_val")
    content = json.loads(Path(metadata.json_file).read_text())
    for place, cell in enumerate(content["annotations"]):
        cell["id"] = number(place)
        if cell["id"] is None:
            del cell["id"]
    (tmp_path / "val.json").write_text(json.dumps(content), encoding="utf-8-sig")
    monkeypatch.setitem(metadata.__dict__, "json_file", str(tmp_path / "val.json"))
    samples = DatasetCatalog.get("nuclei_val")
    results = _evaluate(CellCOCOEvaluator("nuclei_val", max_dets_per_image=100), samples, keep=1)
    monkeypatch.undo()
    expected = _evaluate(CellCOCOEvaluator("nuclei_val", max_dets_per_image=100), samples, keep=1)
    for task, metrics in expected.items():
        assert results[task] == pytest.approx(metrics, nan_ok=True)


def test_the_cap_follows_the_results(nuclei):
    evaluator = CellCOCOEvaluator("nuclei_val", max_dets_per_image=1)
    evaluator.reset()
    (sample,) = [sample for sample in DatasetCatalog.get("nuclei_val") if len(sample["annotations"]) > 3][:1]
    cells = _predictions(sample, keep=1)["cells"]
    many = CellInstances.concatenate([cells] * (evaluator.max_detections + 1))
    evaluator.process([sample], [{"cells": many}])
    found = evaluator.evaluate()["segm"]["AP"]
    most = max(np.bincount(many.classes))
    high, low = (
        average_precision(evaluator.truth, evaluator.results, "segm", cap)["AP"]
        for cap in (most, evaluator.max_detections)
    )
    assert found == high > low


def test_a_damaged_file_is_one_line(nuclei, tmp_path, monkeypatch):
    metadata = MetadataCatalog.get("nuclei_val")
    content = json.loads(Path(metadata.json_file).read_text())
    content["annotations"][2]["segmentation"]["counts"] *= 2
    (tmp_path / "val.json").write_text(json.dumps(content))
    monkeypatch.setitem(metadata.__dict__, "json_file", str(tmp_path / "val.json"))
    with pytest.raises(CellSegError, match=r"val\.json: annotation 2, counted from 0, of image \d+, has an RLE that"):
        CellCOCOEvaluator("nuclei_val", max_dets_per_image=100)
