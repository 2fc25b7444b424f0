import cv2
import numpy as np
import pytest

from cellseg_d2.config import get_cfg
from cellseg_d2.config_checks import check_sampler
from cellseg_d2.data.image_kinds import image_kind, kind_factors
from cellseg_d2.errors import CellSegError

DARK, BRIGHT = np.full((20, 20, 3), 12, np.uint8), np.full((20, 20, 3), 230, np.uint8)
STAINED = np.full((20, 20, 3), (220, 160, 200), np.uint8)


def test_kinds_are_told_from_pixels():
    assert [image_kind(image) for image in (DARK, BRIGHT, STAINED)] == ["dark", "bright", "colour"]
    specks = DARK.copy()
    specks[0, :5] = (200, 10, 10)  # few pixels in colour make no colour image
    assert image_kind(specks) == "dark"


def test_every_kind_comes_as_often_as_the_commonest_up_to_the_limit(tmp_path):
    dicts = []
    for number, image in enumerate([DARK] * 6 + [BRIGHT] + [STAINED] * 3):
        path = str(tmp_path / f"{number}.png")
        cv2.imwrite(path, image[..., ::-1])
        dicts.append({"file_name": path})
    assert kind_factors(dicts, 10.0).tolist() == [1.0] * 6 + [6.0] + [2.0] * 3
    assert kind_factors(dicts, 4.0).tolist() == [1.0] * 6 + [4.0] + [2.0] * 3


def test_two_ways_to_repeat_tiles_are_refused():
    keys = ["CELLSEG.BALANCE_KINDS", "5.0", "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    with pytest.raises(CellSegError, match="BALANCE_KINDS draws tiles by their kind"):
        check_sampler(get_cfg("mask_rcnn_lite0_FPN", keys))
