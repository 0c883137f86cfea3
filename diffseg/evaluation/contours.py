"""Distances between the contours of two masks, and the bands along them: arithmetic on arrays, with scipy.

A mask's contour is its pixels with one of the four neighbours outside of the mask, or outside of the image.
"""

import math
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


def band(mask: Mask, width: int) -> Mask:
    """Return a mask's pixels at most `width` rows and columns inside its contour, given a mask [h, w] with an empty border."""
    from scipy.ndimage import distance_transform_cdt

    inside: Mask = mask & (distance_transform_cdt(mask, "chessboard") <= width)
    return inside


def band_width(size: tuple[int, int], share: float) -> int:
    """Return the width of a band in pixels, given the image's size and the share of its diagonal."""
    return max(1, round(share * math.hypot(*size)))


def _contour(mask: Mask) -> Mask:
    from scipy.ndimage import binary_erosion

    contour: Mask = mask & ~binary_erosion(mask)
    return contour
