import pytest

from cellseg_d2.conversion.caps import caps_for


@pytest.mark.parametrize(
    ("most", "detections", "proposals"), [(1, 500, 2000), (250, 500, 2000), (251, 550, 2000), (700, 1400, 3000)]
)
def test_limits_follow_the_densest_tile(most, detections, proposals):
    assert caps_for(most) == {
        "TEST.DETECTIONS_PER_IMAGE": detections,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": proposals,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": proposals // 2,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": proposals,
        "MODEL.RPN.POST_NMS_TOPK_TEST": proposals,
    }
