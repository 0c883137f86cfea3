"""Calibration of foreground probabilities: reliability in ten bins, per image and pooled, and calibration errors of regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from diffseg.evaluation.bands import band_width, dilate
from diffseg.evaluation.metrics import number_classes
from diffseg.labels.classes import Classes

if TYPE_CHECKING:
    from diffseg.evaluation.images import TestImages

BINS = 10
CELLS = 2**16  # bins that are merged into bins of equally many pixels: values of p in one of them count as equal


class Calibration:
    """Reliability of probabilities, pooled over the pixels of all images.

    Of each class in ten equal bins [0, 0.1), … [0.9, 1], also by image, and in CELLS bins, from which bins of equally many
    pixels are made; of the most probable class in ten bins. The sums stay on the device until they are asked for.
    """

    def __init__(self, device: torch.device | str, classes: Classes):
        """Start without images."""
        self.names = classes.rows[1:] or classes.rows  # a single class stands for all
        self._exclusive = classes.exclusive  # all classes compete for a pixel, else each with its background
        tops = 1 if self._exclusive else classes.count
        self._cells, self._tops = (
            torch.zeros(count, 3, bins, dtype=torch.float64, device=device)  # pixels, their p, their y
            for count, bins in ((len(self.names), CELLS), (tops, BINS))
        )
        self._by_image: list[torch.Tensor] = []  # sums of batches of images [B, K, 3, BINS]

    def add(self, images: TestImages) -> None:
        """Add test images, against each rater's masks."""
        p, masks = images.probability.flatten(2).double(), images.raters.flatten(3)  # [B, K, N], [B, K, R, N]
        valid, raters = None if images.valid is None else images.valid.flatten(2), masks.shape[2]
        marked = masks.sum(2, dtype=torch.uint8)
        self._by_image.append(_add_up(p, marked, raters, valid, BINS))
        for own in range(len(p)):
            counted = None if valid is None else valid[own]
            self._cells += _add_up(p[own], marked[own], raters, counted, CELLS)
        rivals = 1 if self._exclusive else 2  # the classes of a pixel that compete come third
        p, masks = p.unsqueeze(rivals), masks.unsqueeze(rivals)
        top = 1 - p.sum(2)
        label = torch.zeros((), dtype=torch.uint8, device=p.device)
        for number, rival in enumerate(p.unbind(2), 1):  # faster than a maximum with its place
            label = torch.where(rival > top, number, label)
            top = torch.maximum(rival, top)
        right = (number_classes(masks, 2) == label[:, :, None]).sum(2)
        self._tops += _add_up(top, right, raters, valid, BINS).sum(0)

    @property
    def sums(self) -> torch.Tensor:
        """The sums of all images, float64 [K, 3, BINS]: pixels, their p, their y."""
        return torch.cat(self._by_image).sum(0)

    def rows(self, order: torch.Tensor | slice = slice(None)) -> list[dict[str, Any]]:
        """Return a row for each image, class and bin that has pixels, of images in the order [N], or in that of `add`.

        Keys: image (its place in the order), class, bin, count, confidence (mean p), accuracy (share of the class).
        """
        count, p, y = torch.cat(self._by_image).cpu()[order].unbind(2)
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
    """Return the ECE [...] of images [..., H, W] over regions, since most pixels are background that no model doubts.

    `ece_image`: all pixels. `ece_boundary`: the band (`band_width`) on both sides of the mask's contour. `ece_foreground`: the
    mask, that band, and the predicted foreground. NaN where a region has no pixels. Ten bins, as in Calibration. The
    arguments broadcast. valid, bool: the pixels that count; None if all do.
    """
    p, width = probability.double(), band_width((mask.shape[-2], mask.shape[-1]))
    outer, outside = dilate(mask, width), dilate(~mask, width)
    part = (outer | prediction).byte() + (outer & outside)  # 2: the band, 1: else in the foreground, 0: neither
    index = (_bins(p) + BINS * part).flatten(-2)
    gap, ones = p - mask.double(), p.new_ones(())
    if valid is not None:
        gap, ones = gap * valid, valid.double()
    gaps, counts = (
        p.new_zeros(*index.shape[:-1], 3 * BINS).scatter_add_(-1, index, values.expand_as(part).flatten(-2))
        for values in (gap, ones)
    )
    found = {}
    for name, first in (("image", 0), ("boundary", 2), ("foreground", 1)):
        of_bins, count = (sums.view(*sums.shape[:-1], 3, BINS)[..., first:, :].sum(-2) for sums in (gaps, counts))
        found[f"ece_{name}"] = of_bins.abs().sum(-1) / count.sum(-1)
    return found


def _add_up(p: torch.Tensor, marked: torch.Tensor, raters: int, valid: torch.Tensor | None, bins: int) -> torch.Tensor:
    """Return the sums [..., 3, bins] of pixels, their p and their y over equal bins of p, each pixel once a rater.

    p [..., N]; marked [..., N]: the number of raters for whom y is 1. valid, bool, broadcast to p: the pixels that count.
    """
    index, sums = _bins(p, bins), p.new_zeros(*p.shape[:-1], 3, bins)
    if valid is None:
        weights = p.new_full((), raters).expand_as(p)
    else:
        weights = (valid * float(raters)).to(p.dtype).expand_as(p)
        marked = marked * valid
    for row, values in zip(sums.unbind(-2), (weights, p * weights, marked.to(p.dtype)), strict=True):
        row.scatter_add_(-1, index, values)
    return sums


def _expected_error(sums: torch.Tensor) -> float:
    """Return Σ_b |Σ p − Σ y| / N of sums [K, 3, bins], mean over K."""
    errors = [(p - y).abs().sum() / count.sum() for count, p, y in sums]
    return float(torch.stack(errors).mean())


def _bins(p: torch.Tensor, bins: int = BINS) -> torch.Tensor:
    """Return each probability's bin of equal ones; 1 belongs to the last."""
    return (p * bins).long().clamp(max=bins - 1)
