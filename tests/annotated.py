"""A small image with annotations: which label maps a reader is to give for it."""

import numpy as np
from drawing import noise

from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

SIZE = (40, 50)
IMAGE = noise(np.random.default_rng(0), *SIZE)


def label_maps(found):
    """Class name -> label maps of the first image, which is :data:`IMAGE`; the regions to ignore under None."""
    labels = found.images[0].read(INTENSITY_RULE, MAX_PIXELS, len(found.class_names))
    assert np.array_equal(labels.image, IMAGE)
    maps = {}
    for layer in labels.label_maps:
        if layer.crowd:
            assert layer.categories == tuple(range(1, len(found.class_names) + 1))
        maps.setdefault(None if layer.crowd else found.class_names[layer.categories[0] - 1], []).append(layer.labels)
    return maps


def filled(**boxes):
    """A label map: ``_7=(x0, y0, x1, y1)`` has the label 7 in these pixels; 0 erases."""
    labels = np.zeros(SIZE, np.int32)
    for label, (x0, y0, x1, y1) in boxes.items():
        labels[y0:y1, x0:x1] = int(label.lstrip("_"))
    return labels


def check_maps(found, **wanted):
    """Asserts that there are just these classes, each with one label map as it is wanted."""
    assert {name: len(layers) for name, layers in found.items()} == dict.fromkeys(wanted, 1)
    for name, labels in wanted.items():
        assert np.array_equal(found[name][0], labels)
