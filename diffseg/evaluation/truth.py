"""The annotations that a prediction is compared with, at the size at which it is evaluated."""

from typing import Any

import numpy as np

from diffseg.config import Config
from diffseg.data.resizing import scaled_size
from diffseg.data.splits import Split
from diffseg.evaluation.images import TestImage
from diffseg.labels.classes import IGNORED
from diffseg.labels.labels import Labels
from diffseg.prediction.merging import Prediction
from diffseg.prediction.resolution import reference_labels


def distance_unit(test: Split) -> str:
    """Return the unit of distances in images: "mm" if the spacing of all images is known, else "px"."""
    return "px" if None in test.spacings else "mm"


def read_truth(prediction: Prediction, test: Split, config: Config) -> TestImage:
    """Return a test image with its masks. A pixel that a rater leaves out counts for none.

    Raises:
        DataError: The image's files have changed since they were decoded.
    """
    numbers, labels = reference_labels(test, prediction.index, config), Labels.of(config)
    valid = (numbers != IGNORED).all(0) if labels.classes.ignored else None
    spacing = _pixel_spacing(test, prediction.index, config) if distance_unit(test) == "mm" else None
    instances = _read_instances(test, prediction.index, config)
    return TestImage(prediction, labels.class_masks(numbers), valid, config, spacing, instances)


def _of_files(test: Split, config: Config) -> bool:
    """Return whether predictions are compared with the masks as they are in files."""
    return config.inference.resolution == "original" and test.records is not None


def _pixel_spacing(test: Split, index: int, config: Config) -> tuple[float, float] | None:
    """Return the mm between rows and between columns of the index-th image; None if unknown."""
    spacing, original = test.spacings[index], test.originals[index]
    if spacing is None or _of_files(test, config):
        return spacing
    size = scaled_size(original, config.data)
    return spacing[0] * original[0] / size[0], spacing[1] * original[1] / size[1]


def _read_instances(test: Split, index: int, config: Config) -> np.ndarray[Any, Any] | None:
    """Return the number of each pixel's annotated object, uint16 [H, W], 0 for none; None if objects are unknown."""
    if test.instances is None:
        return None
    if not _of_files(test, config):
        return test.instances[index][0].cpu().numpy()
    found = test.record(index).read_instances()
    return None if found is None else found[0]
