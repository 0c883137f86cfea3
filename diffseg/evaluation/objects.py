"""Objects of two masks, matched one to one: arithmetic on arrays, with scipy."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Mask = np.ndarray[Any, np.dtype[np.bool_]]
MATCHED = 0.5  # IoU above which objects match; at most one object of each side can then match
NEIGHBOURS = np.ones((3, 3), bool)  # pixels that touch at a side or at a corner belong to one object


@dataclass(frozen=True)
class Matches:
    """The objects of a prediction that match annotated ones."""

    ious: np.ndarray  # of each matched pair
    predicted: int  # objects
    true: int

    @property
    def precision(self) -> float:
        """The share of predicted objects that match; 0 without predicted objects, 1 if there are no objects at all."""
        return self._share(len(self.ious), self.predicted)

    @property
    def recall(self) -> float:
        """The share of annotated objects that match; 0 without annotated objects, 1 if there are no objects at all."""
        return self._share(len(self.ious), self.true)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 if there are no objects at all."""
        return self._share(2 * len(self.ious), self.predicted + self.true)

    @property
    def panoptic_quality(self) -> float:
        """The sum of the pairs' IoUs, divided by TP + FP/2 + FN/2; 1 if there are no objects at all."""
        return self._share(2 * float(self.ious.sum()), self.predicted + self.true)

    def _share(self, part: float, whole: int) -> float:
        if not self.predicted + self.true:
            return 1.0
        return part / whole if whole else 0.0


def match_objects(predicted: Mask, true: Mask, instances: np.ndarray | None = None) -> Matches:
    """Match the objects of masks [h, w] that have an IoU above MATCHED.

    Predicted objects are connected components. So are annotated ones, unless their numbers `instances` [h, w] are known.
    """
    from scipy.ndimage import label

    ours, count = label(predicted, NEIGHBOURS)
    if instances is None:
        theirs, _ = label(true, NEIGHBOURS)
    else:
        theirs = np.where(true, instances, 0)
    both = (ours > 0) & (theirs > 0)
    factor = int(theirs.max(initial=0)) + 1
    pairs, shared = np.unique(ours[both].astype(np.int64) * factor + theirs[both], return_counts=True)
    our_sizes, their_sizes = np.bincount(ours.ravel()), np.bincount(theirs.ravel())
    ious = shared / (our_sizes[pairs // factor] + their_sizes[pairs % factor] - shared)
    return Matches(ious[ious > MATCHED], count, int((their_sizes[1:] > 0).sum()))
