"""What the shape of a cell is, in a few numbers, from its mask inside its box."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS = 16
"""Of the lines that enclose a mask, over half a turn."""

CENTRE = (5.5, 3.3, 2.8, 3.0, 3.0, 0.65, 0.96, 0.76, 0.91, 0.98)
SCALE = (1.0, 0.5, 0.5, 0.5, 0.5, 0.2, 0.05, 0.12, 0.05, 0.03)
"""What is subtracted and divided by, so that usual cells give numbers of about -1 to 1."""

NUMBER = len(CENTRE)


def shape_descriptors(masks: Tensor, boxes: Tensor) -> Tensor:
    """Sizes and ratios that tell round, long and irregular cells apart; turning a cell hardly changes most of them.

    In this order: the logarithms of the area, of the axes of the ellipse of the same second moments and of the box's
    sides; minor by major axis; area by that ellipse's; 4 pi area by the squared perimeter; area by that of the convex
    hull (solidity); perimeter of the hull by perimeter. The perimeter is the mask's total variation. The hull is
    enclosed by lines in :data:`DIRECTIONS` directions; its sides and area follow from their distances (Schneider,
    Convex Bodies: The Brunn-Minkowski Theory, 2014, section 1.7).

    Args:
        masks: (N, h, w) probabilities in [0, 1] inside the boxes.
        boxes: (N, 4) x0, y0, x1, y1 in pixels.

    Returns:
        (N, 10) float32, finite, shifted and scaled by :data:`CENTRE` and :data:`SCALE`.
    """
    masks, boxes = masks.float(), boxes.float()
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    step_x, step_y = sides[:, 0] / masks.shape[2], sides[:, 1] / masks.shape[1]
    x = (torch.arange(masks.shape[2], device=masks.device) + 0.5) * step_x[:, None]
    y = (torch.arange(masks.shape[1], device=masks.device) + 0.5) * step_y[:, None]
    step = step_x * step_y

    area = (masks.sum(dim=(1, 2)) * step).clamp(min=1)
    share = masks * (step / area)[:, None, None]
    columns, rows = share.sum(dim=1), share.sum(dim=2)
    x = x - (columns * x).sum(dim=1, keepdim=True)
    y = y - (rows * y).sum(dim=1, keepdim=True)
    xx = (columns * x * x).sum(dim=1) + step_x.square() / 12  # of a pixel itself
    yy = (rows * y * y).sum(dim=1) + step_y.square() / 12
    xy = (share * y[:, :, None] * x[:, None, :]).sum(dim=(1, 2))
    middle, half = (xx + yy) / 2, (((xx - yy) / 2).square() + xy.square()).sqrt()
    major, minor = 4 * (middle + half).sqrt(), 4 * (middle - half).clamp(min=0.05).sqrt()

    perimeter = _perimeter(masks, step_x, step_y).clamp(min=1)
    inside = masks > 0.5
    hull_area, hull_perimeter = _hull(inside, x, y, step_x, step_y)
    solid = (inside.sum(dim=(1, 2)) * step / hull_area).clamp(max=1)
    numbers = [area.log(), major.log(), minor.log(), sides[:, 0].log(), sides[:, 1].log(), minor / major]
    numbers += [area / (math.pi / 4 * major * minor), 4 * math.pi * area / perimeter.square()]
    numbers += [solid, hull_perimeter / perimeter]
    usual = torch.tensor((CENTRE, SCALE), device=masks.device)
    return (torch.stack(numbers, dim=1) - usual[0]) / usual[1]


def _perimeter(masks: Tensor, step_x: Tensor, step_y: Tensor) -> Tensor:
    """(N,) lengths of the outlines, outside the box too: the sum of the gradient over all pixels."""
    wide = F.pad(masks, (2, 2, 2, 2))
    across = (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]) / 2 * step_y[:, None, None]
    down = (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]) / 2 * step_x[:, None, None]
    return (across.square() + down.square()).sqrt().sum(dim=(1, 2))


def _hull(inside: Tensor, x: Tensor, y: Tensor, step_x: Tensor, step_y: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) areas and perimeters of the enclosing polygons; at least those of one pixel.

    Args:
        inside: (N, h, w) bool.
        x: (N, w) the columns' places.
        y: (N, h) the rows' places.
        step_x: (N,) width of a pixel.
        step_y: (N,) height of a pixel.
    """
    angles = torch.arange(DIRECTIONS, device=x.device) * (math.pi / DIRECTIONS)
    cos, sin = angles.cos(), angles.sin()
    pixel = (cos.abs() * step_x[:, None] + sin.abs() * step_y[:, None]) / 2
    far = 1e9
    ahead, behind = [], []
    for number in range(DIRECTIONS):  # one at a time: all together would take gigabytes for a thousand cells
        along = cos[number] * x[:, None, :] + sin[number] * y[:, :, None]
        ahead.append(along.masked_fill(~inside, -far).amax(dim=(1, 2)))
        behind.append(-along.masked_fill(~inside, far).amin(dim=(1, 2)))
    distance = torch.cat([torch.stack(ahead, dim=1) + pixel, torch.stack(behind, dim=1) + pixel], dim=1)
    distance = distance.masked_fill(~inside.any(dim=2).any(dim=1)[:, None], 0.0)
    turn = math.pi / DIRECTIONS
    sides = (distance.roll(1, dims=1) + distance.roll(-1, dims=1) - 2 * math.cos(turn) * distance) / math.sin(turn)
    area = (distance * sides).sum(dim=1) / 2
    return area.clamp(min=1), sides.sum(dim=1).clamp(min=1)
