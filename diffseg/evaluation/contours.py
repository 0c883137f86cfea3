"""Distances between the contours of two masks: arithmetic on arrays, with scipy.

A mask's contour is its pixels with one of the four neighbours outside of the mask, or outside of the image.
"""

from typing import Any

import numpy as np

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Distances = tuple[np.ndarray, np.ndarray]  # of each contour pixel of one mask to the other's contour, both ways
ROUNDING = 1e-9  # relative error of a distance, which must not decide whether it is within a tolerance


def contour_distances(a: Mask, b: Mask, spacing: tuple[float, float]) -> Distances:
    """Return the distances of a's contour to b's and of b's to a's, given non-empty masks [h, w] with an empty border."""
    from scipy.spatial import KDTree

    one, other = (np.argwhere(_contour(mask)) * spacing for mask in (a, b))
    return KDTree(other).query(one)[0], KDTree(one).query(other)[0]


def share_within(distances: Distances, tolerance: float) -> float:
    """Return the share of the contours' pixels that are at most the tolerance away from the other contour."""
    return float((np.concatenate(distances) <= tolerance * (1 + ROUNDING)).mean())


def hausdorff_95(distances: Distances) -> float:
    """Return the greater one of both directions' 95th percentiles."""
    return float(max(np.quantile(each, 0.95) for each in distances))


def mean_distance(distances: Distances) -> float:
    """Return the mean over the pixels of both contours."""
    return float(np.concatenate(distances).mean())


def _contour(mask: Mask) -> Mask:
    """Return the contour of a mask [h, w] with an empty border."""
    inner = mask[1:-1, 1:-1]
    contour: Mask = np.zeros_like(mask)
    contour[1:-1, 1:-1] = inner & ~(mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:])
    return contour
