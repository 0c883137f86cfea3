"""The masks of one class on the host, cropped to where they are, and the metrics of their contours and objects."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from diffseg.evaluation import contours
from diffseg.evaluation.contours import Distances, Mask
from diffseg.evaluation.objects import Matches, match_objects

if TYPE_CHECKING:
    from diffseg.evaluation.images import TestImages


@dataclass(frozen=True)
class Shapes:
    """The predicted mask of a class and the true one, cropped to the box around both, with an empty border of one pixel."""

    predicted: Mask  # bool [h, w]
    true: Mask  # bool [h, w]
    instances: np.ndarray | None  # [h, w], the number of each pixel's annotated object; None if unknown
    size: tuple[int, int]  # height and width of the image
    spacing: tuple[float, float]  # of a pixel, in the unit of distances

    @classmethod
    def crop(
        cls, predicted: Mask, true: Mask, instances: np.ndarray | None, spacing: tuple[float, float] | None
    ) -> Shapes:
        """Crop masks [H, W] of an image. spacing: mm of a pixel; None: distances are in pixels."""
        either = predicted | true
        rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
        box = (slice(0), slice(0)) if not len(rows) else tuple(slice(own[0], own[-1] + 1) for own in (rows, columns))
        objects = None if instances is None else _pad(instances[box])
        height, width = predicted.shape
        return cls(_pad(predicted[box]), _pad(true[box]), objects, (height, width), spacing or (1.0, 1.0))

    @cached_property
    def worst_distance(self) -> float | None:
        """The distance that stands for a missed object, the image's diagonal; 0 without an object; None if neither is empty."""
        if self.predicted.any() and self.true.any():
            return None
        return math.hypot(*np.multiply(self.size, self.spacing)) if self.predicted.any() or self.true.any() else 0.0

    @cached_property
    def distances(self) -> Distances:
        """The distances between the contours."""
        return contours.contour_distances(self.predicted, self.true, self.spacing)

    @cached_property
    def matches(self) -> Matches:
        """The matched objects."""
        return match_objects(self.predicted, self.true, self.instances)


def _pad(values: np.ndarray) -> np.ndarray:
    """Return values [h, w] with a border of one pixel of zeros. np.pad takes longer than all else for small crops."""
    found = np.zeros((values.shape[0] + 2, values.shape[1] + 2), values.dtype)
    found[1:-1, 1:-1] = values
    return found


def _measure_each(images: TestImages, measure: Callable[[Shapes], float]) -> torch.Tensor:
    """Return a metric of the shapes of each class of each image, float64 [B, K] on the host."""
    return torch.tensor([[measure(shapes) for shapes in own] for own in images.shapes], dtype=torch.float64)


def _measure_distances(images: TestImages, measure: Callable[[Distances], float]) -> torch.Tensor:
    """Return a metric of the distances between contours, or the distance that stands for a missed object."""
    return _measure_each(
        images, lambda shapes: measure(shapes.distances) if shapes.worst_distance is None else shapes.worst_distance
    )


def nsd(images: TestImages) -> torch.Tensor:
    """Return the normalised surface distance."""
    tolerance = images.config.inference.nsd_tolerance

    def measure(shapes: Shapes) -> float:
        if shapes.worst_distance is not None:
            return float(shapes.worst_distance == 0)
        return contours.share_within(shapes.distances, tolerance)

    return _measure_each(images, measure)


def hd95(images: TestImages) -> torch.Tensor:
    """Return the 95th percentile of the Hausdorff distance."""
    return _measure_distances(images, contours.hausdorff_95)


def assd(images: TestImages) -> torch.Tensor:
    """Return the average symmetric surface distance."""
    return _measure_distances(images, contours.mean_distance)


def object_precision(images: TestImages) -> torch.Tensor:
    """Return the share of predicted objects that match an annotated one."""
    return _measure_each(images, lambda shapes: shapes.matches.precision)


def object_recall(images: TestImages) -> torch.Tensor:
    """Return the share of annotated objects that match a predicted one."""
    return _measure_each(images, lambda shapes: shapes.matches.recall)


def object_f1(images: TestImages) -> torch.Tensor:
    """Return the F1 score of the objects."""
    return _measure_each(images, lambda shapes: shapes.matches.f1)


def panoptic_quality(images: TestImages) -> torch.Tensor:
    """Return the panoptic quality of the objects."""
    return _measure_each(images, lambda shapes: shapes.matches.panoptic_quality)
