"""StarDist 2D's side, with its default settings; imported only by the environment of ``make bench-setup``."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tensorflow as tf
from csbdeep.utils import normalize
from numpy.typing import NDArray
from stardist import fill_label_holes
from stardist.models import Config2D, StarDist2D

from benchmarks.accuracy.job import SEED, Budget, Find, Job, LabelledImage, predict, write_result

PLAIN = {"prob": 0.5, "nms": 0.4}
"""The thresholds of a model for which none were chosen."""

Array = NDArray[Any]


class EndOfBudget(tf.keras.callbacks.Callback):
    """Ends the training when its time is up; validation does not count."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts a step."""
        if not self.budget.step():
            self.model.stop_training = True

    def on_test_begin(self, logs: Any = None) -> None:
        """Before validation."""
        self.budget.pause()

    def on_test_end(self, logs: Any = None) -> None:
        """After validation."""
        self.budget.resume()


def normalized(pixels: NDArray[np.uint8]) -> Array:
    """(H, W, 3) float32: each channel from its 1st to its 99.8th percentile, as StarDist's examples do."""
    return normalize(pixels, 1, 99.8, axis=(0, 1))


def augment(pixels: Array, labels: Array) -> tuple[Array, Array]:
    """Flips, quarter turns, another intensity and noise: the kinds and strengths of StarDist's 2D example."""
    turns = np.random.randint(4)
    pixels, labels = np.rot90(pixels, turns), np.rot90(labels, turns)
    if np.random.rand() < 0.5:
        pixels, labels = pixels[::-1], labels[::-1]
    pixels = pixels * np.random.uniform(0.6, 2) + np.random.uniform(-0.2, 0.2)
    noise = 0.02 * np.random.uniform() * np.random.normal(size=pixels.shape)
    return (pixels + noise).astype(np.float32), labels


def arrays_of(images: list[LabelledImage]) -> tuple[list[Array], list[Array]]:
    """What StarDist trains on: images and label maps without holes."""
    return [normalized(image.pixels) for image in images], [fill_label_holes(image.labels) for image in images]


def finder(model: StarDist2D, thresholds: dict[str, float]) -> Find:
    """From an image's pixels to its label map and scores."""

    def find(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int32], Array]:
        labels, details = model.predict_instances(
            normalized(pixels), prob_thresh=thresholds["prob"], nms_thresh=thresholds["nms"]
        )
        return labels, details["prob"]

    return find


def text_of(thresholds: dict[str, float]) -> str:
    """Both thresholds for the table."""
    return f"{thresholds['prob']:.2f}, NMS {thresholds['nms']:.1f}"


def main(job: Job) -> None:
    """Trains, predicts and writes the result."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(SEED)
    training, validation = arrays_of(job.training_images()), arrays_of(job.validation_images())
    # RGB, since a part of the images is stained; TensorBoard's pictures would take from the time
    config = Config2D(n_rays=32, grid=(2, 2), n_channel_in=3, train_tensorboard=False)
    model = StarDist2D(config, name="model", basedir=str(job.folder))
    model.prepare_for_training()
    budget = Budget(job)
    model.callbacks.append(EndOfBudget(budget))
    model.train(*training, validation_data=validation, augmenter=augment)
    took = budget.training()
    tests = job.test_images()
    seconds = {"plain": predict(job, "plain", tests, finder(model, PLAIN))}
    best = model.optimize_thresholds(*validation)
    seconds["full"] = predict(job, "full", tests, finder(model, best))
    thresholds = {"plain": text_of(PLAIN), "full": text_of(best)}
    packages = ("stardist", "tensorflow-cpu", "keras", "numpy")
    write_result(job, took, config.train_batch_size, seconds, thresholds, packages)


if __name__ == "__main__":
    main(Job.read(sys.argv[1]))
