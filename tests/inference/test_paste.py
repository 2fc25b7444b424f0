import numpy as np
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes, Instances

from cellseg_d2.inference.paste import paste_in_boxes, to_cell_instances


def test_masks_are_those_that_detectron2_pastes():
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(60, 2, generator=generator) * 80 - 5
    boxes = torch.cat([corners, corners + 0.3 + 50 * torch.rand(60, 2, generator=generator) ** 3], dim=1)
    boxes[:, 0::2].clamp_(0, 90)  # as Detectron2 clips them
    boxes[:, 1::2].clamp_(0, 70)
    probabilities = torch.rand(60, 28, 28, generator=generator)
    masks, origins = paste_in_boxes(probabilities, boxes, (70, 90), 0.5)
    expected = paste_masks_in_image(probabilities, boxes, (70, 90), 0.5).numpy()
    for mask, (x, y), full in zip(masks, origins, expected):
        pasted = np.zeros((70, 90), bool)
        pasted[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        # a box without an area has no sampling points, and no cell
        np.testing.assert_array_equal(pasted, full)


def test_cells_without_a_pixel_are_left_out():
    instances = Instances((20, 20))
    instances.pred_boxes = Boxes(torch.tensor([[2.0, 2.0, 9.0, 9.0], [10.0, 10.0, 18.0, 18.0]]))
    instances.scores, instances.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([1, 2])
    instances.pred_masks = torch.stack([torch.zeros(1, 28, 28), torch.ones(1, 28, 28)])
    cells = to_cell_instances(instances, 0.5)
    assert cells.classes.tolist() == [2]
    assert cells.areas.tolist() == [64]
