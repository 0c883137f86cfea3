"""The masks of one class on the host, cropped to where they are, and the metrics of their contours and objects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from diffseg.evaluation import contours
from diffseg.evaluation.calibration import BAND
from diffseg.evaluation.contours import Distances, Mask
from diffseg.evaluation.objects import Matches, match_objects

if TYPE_CHECKING:
    from diffseg.evaluation.case import Case


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
        objects = None if instances is None else np.pad(instances[box], 1)
        height, width = predicted.shape
        return cls(np.pad(predicted[box], 1), np.pad(true[box], 1), objects, (height, width), spacing or (1.0, 1.0))

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


def nsd(case: Case) -> float:
    """Return the normalised surface distance."""
    shapes = case.shapes
    if shapes.worst_distance is not None:
        return float(shapes.worst_distance == 0)
    return contours.share_within(shapes.distances, case.config.inference.nsd_tolerance)


def hd95(case: Case) -> float:
    """Return the 95th percentile of the Hausdorff distance."""
    shapes = case.shapes
    return contours.hausdorff_95(shapes.distances) if shapes.worst_distance is None else shapes.worst_distance


def assd(case: Case) -> float:
    """Return the average symmetric surface distance."""
    shapes = case.shapes
    return contours.mean_distance(shapes.distances) if shapes.worst_distance is None else shapes.worst_distance


def boundary_iou(case: Case) -> float:
    """Return the IoU of the bands inside of both contours."""
    shapes, width = case.shapes, contours.band_width(case.shapes.size, BAND)
    predicted, true = (contours.band(mask, width) for mask in (shapes.predicted, shapes.true))
    either = np.count_nonzero(predicted | true)
    return np.count_nonzero(predicted & true) / either if either else 1.0


def object_precision(case: Case) -> float:
    """Return the share of predicted objects that match an annotated one."""
    return case.shapes.matches.precision


def object_recall(case: Case) -> float:
    """Return the share of annotated objects that match a predicted one."""
    return case.shapes.matches.recall


def object_f1(case: Case) -> float:
    """Return the F1 score of the objects."""
    return case.shapes.matches.f1


def panoptic_quality(case: Case) -> float:
    """Return the panoptic quality of the objects."""
    return case.shapes.matches.panoptic_quality
