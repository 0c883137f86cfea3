"""Calibration of foreground probabilities: reliability in ten bins, per image and pooled, and calibration errors of regions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from diffseg.labels.classes import Classes

if TYPE_CHECKING:
    from diffseg.evaluation.case import TestImage

BINS = 10
BAND = 0.02  # of the image's diagonal: how far from a mask's contour its boundary reaches (Cheng et al., 2021)


class Calibration:
    """Reliability of each class's probability in ten equal bins [0, 0.1), … [0.9, 1], of each image and pooled over all pixels.

    The sums stay on the device until `rows` or `ece` is called.
    """

    def __init__(self, device: torch.device | str, classes: Classes):
        """Start without images."""
        self.names = classes.rows[1:] or classes.rows  # a single class stands for all
        self.sums = torch.zeros(
            len(self.names), 3, BINS, dtype=torch.float64, device=device
        )  # pixels, their p, their y
        self._after: list[torch.Tensor] = []  # the sums after each image

    def add(self, image: TestImage) -> None:
        """Add a test image, against each rater's masks."""
        for case, sums in zip(image.classes, self.sums, strict=True):
            p = case.pixels(case.probability).flatten().double()
            index, ones = _bins(p), torch.ones_like(p)
            for mask in case.pixels(case.raters):
                for row, values in zip(sums, (ones, p, mask.flatten().double()), strict=True):
                    row.index_add_(0, index, values)
        self._after.append(self.sums.clone())

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each image, class and bin that has pixels.

        Keys: image (its place), class, bin, count, confidence (mean p), accuracy (share of the class).
        """
        after = torch.stack(self._after)
        count, p, y = after.diff(dim=0, prepend=torch.zeros_like(after[:1])).unbind(2)
        filled = count > 0
        places, counts = filled.nonzero().tolist(), count[filled].tolist()
        confidences, accuracies = (p / count)[filled].tolist(), (y / count)[filled].tolist()
        return [
            {
                "image": image,
                "class": self.names[k],
                "bin": b,
                "count": int(n),
                "confidence": confidence,
                "accuracy": accuracy,
            }
            for (image, k, b), n, confidence, accuracy in zip(places, counts, confidences, accuracies, strict=True)
        ]

    def ece(self) -> float:
        """Return the expected calibration error over all pixels: Σ_b n_b/N |accuracy_b − confidence_b|, mean over the classes.

        Source: Naeini et al. (2015); for classes Kull et al. (2019).
        """
        errors = [(p - y).abs().sum() / count.sum() for count, p, y in self.sums]
        return float(torch.stack(errors).mean())


def pooled_ece(calibration: Calibration) -> float:
    """Return the expected calibration error over all pixels of all images."""
    return calibration.ece()


def calibration_errors(
    probability: torch.Tensor, prediction: torch.Tensor, mask: torch.Tensor, valid: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Return the ECE of one image [H, W] over regions, since most pixels are background that no model doubts.

    `ece_image`: all pixels. `ece_boundary`: the band of BAND on both sides of the mask's contour. `ece_foreground`: the
    mask, that band, and the predicted foreground. NaN where a region has no pixels. Ten bins, as in Calibration. valid, bool
    [H, W]: the pixels that count; None if all do.
    """
    p = probability.double()
    gap, index = (p - mask.double()).flatten(), _bins(p).flatten()
    outer, inner = _dilate(mask), ~_dilate(~mask)
    regions = {"image": torch.ones_like(outer), "boundary": outer & ~inner, "foreground": outer | prediction}
    shapes = torch.stack(list(regions.values()))
    inside = (shapes if valid is None else shapes & valid).flatten(1).double()
    sums = torch.zeros(len(regions), BINS, dtype=torch.float64, device=gap.device).index_add_(1, index, inside * gap)
    errors = sums.abs().sum(1) / inside.sum(1)
    return {f"ece_{name}": error for name, error in zip(regions, errors, strict=True)}


def _bins(p: torch.Tensor) -> torch.Tensor:
    """Return each probability's bin of ten equal ones; 1 belongs to the last."""
    return (p * BINS).long().clamp(max=BINS - 1)


def _dilate(mask: torch.Tensor) -> torch.Tensor:
    """Return a boolean mask [H, W] with all pixels at most the band's width from it, in rows and in columns."""
    reach = max(1, round(BAND * math.hypot(*mask.shape)))
    rows = F.max_pool2d(mask[None, None].float(), (1, 2 * reach + 1), 1, (0, reach))
    return F.max_pool2d(rows, (2 * reach + 1, 1), 1, (reach, 0))[0, 0] > 0
