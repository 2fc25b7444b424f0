"""The test images of a study and their ground truth, checked before anything is trained."""

from __future__ import annotations

from pathlib import Path

from cellseg_d2.cells.image_names import NamedImages
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import read_json
from cellseg_d2.images.listing import TEST_FOLDER, TEST_IDS, list_images

TEST_TRUTH = "test_gt.json"


def has_truth(data: Path) -> bool:
    """Whether there are test images with ground truth."""
    return (data / TEST_TRUTH).is_file() and (data / TEST_FOLDER).is_dir()


def check_truth(data: Path, class_count: int) -> None:
    """Checks that the ground truth of the test images, where there is one, lists all of them, by name, and all classes.

    Raises:
        CellSegError: it does not; the message names the first one that is missing.
    """
    if not has_truth(data):
        return
    path = data / TEST_TRUTH
    truth = read_json(path)
    try:
        records = [{**image, "file_name": str(image.get("file_name") or image["id"])} for image in truth["images"]]
        categories = {category["id"] for category in truth["categories"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise CellSegError(f"{path}: is no COCO dataset with images and categories; export it again") from error
    ids = data / TEST_IDS if (data / TEST_IDS).is_file() else None
    images = [(image.file_name, image.id, image.size) for image in list_images(data / TEST_FOLDER, ids)]
    NamedImages(ids or data / TEST_FOLDER, images).among(records, path)
    if missing := set(range(1, class_count + 1)) - categories:
        raise CellSegError(
            f"{path}: has no category of the id {min(missing)}; the classes are numbered as class<k>.tif"
        )
