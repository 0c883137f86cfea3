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
CELLS = 2**16  # bins that are merged into bins of equally many pixels: values of p in one of them count as equal
BAND = 0.02  # of the image's diagonal: how far from a mask's contour its boundary reaches (Cheng et al., 2021)


class Calibration:
    """Reliability of probabilities, pooled over the pixels of all images.

    Of each class in ten equal bins [0, 0.1), … [0.9, 1], also by image, and in CELLS bins, from which bins of equally many
    pixels are made; of the most probable class in ten bins. The sums stay on the device until they are asked for.
    """

    def __init__(self, device: torch.device | str, classes: Classes):
        """Start without images."""
        self.names = classes.rows[1:] or classes.rows  # a single class stands for all
        tops = 1 if classes.exclusive else classes.count
        self.sums, self._cells, self._tops = (
            torch.zeros(count, 3, bins, dtype=torch.float64, device=device)  # pixels, their p, their y
            for count, bins in ((len(self.names), BINS), (len(self.names), CELLS), (tops, BINS))
        )
        self._after: list[torch.Tensor] = []  # the sums after each image

    def add(self, image: TestImage) -> None:
        """Add a test image, against each rater's masks."""
        p, masks = image.pixels(image.prediction.mean).flatten(1).double(), image.pixels(image.raters).flatten(2)
        for own, sums, cells, truths in zip(p, self.sums, self._cells, masks.unbind(1), strict=True):
            _add_up(own, truths, sums)
            _add_up(own, truths, cells)
        rivals = [(p, masks)] if len(self._tops) == 1 else [(p[[k]], masks[:, [k]]) for k in range(len(p))]
        for sums, (own, truths) in zip(self._tops, rivals, strict=True):
            top, label = torch.cat([1 - own.sum(0, keepdim=True), own]).max(0)
            number = torch.where(truths.any(1), truths.byte().argmax(1) + 1, 0)
            _add_up(top, number == label, sums)
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
        return _expected_error(self.sums)

    def top_label_ece(self) -> float:
        """Return the expected calibration error of the most probable of classes and background (Guo et al., 2017)."""
        return _expected_error(self._tops)

    def ace(self) -> float:
        """Return the error over bins of equally many pixels, mean over the classes (Nixon et al., 2019).

        The pixels of a cell are in the bin that the share of pixels in lower cells says, so that equal values share a bin.
        """
        count = self._cells[:, 0]
        below, total = count.cumsum(1) - count, count.sum(1, keepdim=True)
        place = (below * BINS // total).long().clamp(max=BINS - 1)
        adaptive = torch.zeros_like(self.sums).scatter_add_(2, place[:, None].expand_as(self._cells), self._cells)
        return _expected_error(adaptive)

    def mce(self) -> float:
        """Return the greatest |accuracy_b − confidence_b| of the bins with pixels, mean over the classes."""
        count, p, y = self.sums.unbind(1)
        return float(((p - y).abs() / count.clamp(min=1)).amax(1).mean())


def pooled_ece(calibration: Calibration) -> float:
    """Return the expected calibration error over all pixels of all images."""
    return calibration.ece()


def pooled_top_label_ece(calibration: Calibration) -> float:
    """Return the expected calibration error of the most probable class over all pixels of all images."""
    return calibration.top_label_ece()


def pooled_ace(calibration: Calibration) -> float:
    """Return the adaptive calibration error over all pixels of all images."""
    return calibration.ace()


def pooled_mce(calibration: Calibration) -> float:
    """Return the maximum calibration error over all pixels of all images."""
    return calibration.mce()


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
    outer, outside = _dilate(torch.stack([mask, ~mask]))
    regions = {"image": torch.ones_like(outer), "boundary": outer & outside, "foreground": outer | prediction}
    shapes = torch.stack(list(regions.values()))
    inside = (shapes if valid is None else shapes & valid).flatten(1).double()
    sums = torch.zeros(len(regions), BINS, dtype=torch.float64, device=gap.device).index_add_(1, index, inside * gap)
    errors = sums.abs().sum(1) / inside.sum(1)
    return {f"ece_{name}": error for name, error in zip(regions, errors, strict=True)}


def _add_up(p: torch.Tensor, truths: torch.Tensor, sums: torch.Tensor) -> None:
    """Add pixels' counts, p [N] and truths [R, N], once a rater, to the sums [3, bins] of equal bins of p."""
    index, ones = _bins(p, sums.shape[1]), torch.ones_like(p)
    for truth in truths:
        for row, values in zip(sums, (ones, p, truth.double()), strict=True):
            row.index_add_(0, index, values)


def _expected_error(sums: torch.Tensor) -> float:
    """Return Σ_b |Σ p − Σ y| / N of sums [K, 3, bins], mean over K."""
    errors = [(p - y).abs().sum() / count.sum() for count, p, y in sums]
    return float(torch.stack(errors).mean())


def _bins(p: torch.Tensor, bins: int = BINS) -> torch.Tensor:
    """Return each probability's bin of equal ones; 1 belongs to the last."""
    return (p * bins).long().clamp(max=bins - 1)


def _dilate(masks: torch.Tensor) -> torch.Tensor:
    """Return boolean masks [n, H, W] with all pixels at most the band's width from them, in rows and in columns."""
    reach = max(1, round(BAND * math.hypot(*masks.shape[-2:])))
    for _ in range(2):  # along the rows, then, transposed, along the columns
        before = F.pad(masks.int(), (reach + 1, reach)).cumsum(-1, dtype=torch.int32)
        masks = (before[..., 2 * reach + 1 :] > before[..., : -2 * reach - 1]).transpose(1, 2)
    return masks
