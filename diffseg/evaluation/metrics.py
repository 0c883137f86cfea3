"""Quality and calibration of foreground probabilities against binary masks, computed where the tensors live."""

import math

import torch
import torch.nn.functional as F

BINS = 10
BAND = 0.02  # of the image's diagonal: how far from a mask's contour its boundary reaches (Cheng et al., 2021)


def overlap(prediction: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(IoU, Dice) of the foreground of boolean tensors [H, W]. Empty against empty is 1."""
    both, total = (prediction & mask).sum().double(), (prediction.sum() + mask.sum()).double()
    empty = total == 0
    return torch.where(empty, 1.0, both / (total - both)), torch.where(empty, 1.0, 2 * both / total)


def brier(probability: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of (p − y)² over the pixels (Brier, 1950)."""
    return (probability - mask.to(probability.dtype)).square().mean()


def nll(probability: torch.Tensor, mask: torch.Tensor, members: int | None) -> torch.Tensor:
    """Mean negative log-likelihood of the pixels, in nats: −y ln p − (1 − y) ln(1 − p).

    An ensemble of n sampled masks cannot tell a probability below 1/n from 0, so p is clipped to
    [½/(n + 1), (n + ½)/(n + 1)], which keeps the value finite. With members=None, p is a network's own probability or a
    mean of such, and clipped to [1e-6, 1 − 1e-6].
    """
    low = 1e-6 if members is None else 0.5 / (members + 1)
    p = probability.double().clamp(low, 1 - low)
    return -torch.where(mask.bool(), p.log(), (1 - p).log()).mean()


class Calibration:
    """Reliability of p(foreground) in ten equal bins [0, 0.1), … [0.9, 1], of each image and pooled over all pixels.

    Sums stay on the device until rows or the error are asked for.
    """

    def __init__(self, device: torch.device | str):
        self.sums = torch.zeros(3, BINS, dtype=torch.float64, device=device)  # pixels, their p, their y
        self._after: list[torch.Tensor] = []  # the sums after each image

    def add(self, probability: torch.Tensor, masks: torch.Tensor) -> None:
        """Add an image: probability [H, W] against each rater's mask, masks [R, H, W]."""
        p = probability.flatten().double()
        index, ones = _bins(p), torch.ones_like(p)
        for mask in masks:
            for row, values in zip(self.sums, (ones, p, mask.flatten().double()), strict=True):
                row.index_add_(0, index, values)
        self._after.append(self.sums.clone())

    def rows(self) -> list[dict]:
        """Per image and bin that has pixels: image (its place), bin, count, confidence (mean p), accuracy (share of
        foreground)."""
        after = torch.stack(self._after)
        count, p, y = after.diff(dim=0, prepend=torch.zeros_like(after[:1])).unbind(1)
        places = count.nonzero()
        found = (places, *(values[count > 0].tolist() for values in (count, p / count, y / count)))
        return [
            {"image": image, "bin": b, "count": int(n), "confidence": confidence, "accuracy": accuracy}
            for (image, b), n, confidence, accuracy in zip(found[0].tolist(), *found[1:], strict=True)
        ]

    def ece(self) -> float:
        """Expected calibration error over all pixels: Σ_b n_b/N |accuracy_b − confidence_b| (Naeini et al., 2015)."""
        count, p, y = self.sums
        return float((p - y).abs().sum() / count.sum())


def calibration_errors(
    probability: torch.Tensor, prediction: torch.Tensor, mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """ECE of one image [H, W], over all its pixels and where it matters: most pixels are background that nobody doubts.

    ece_image: all pixels. ece_boundary: the band of BAND on both sides of the mask's contour. ece_foreground: the mask, that
    band, and what is predicted as foreground. NaN where there are no such pixels. Ten bins, as in Calibration.
    """
    p = probability.double()
    gap, index = (p - mask.double()).flatten(), _bins(p).flatten()
    outer, inner = _widened(mask), ~_widened(~mask)
    regions = {"image": torch.ones_like(outer), "boundary": outer & ~inner, "foreground": outer | prediction}
    inside = torch.stack(list(regions.values())).flatten(1).double()
    sums = torch.zeros(len(regions), BINS, dtype=torch.float64, device=gap.device).index_add_(1, index, inside * gap)
    errors = sums.abs().sum(1) / inside.sum(1)
    return {f"ece_{name}": error for name, error in zip(regions, errors, strict=True)}


def _bins(p: torch.Tensor) -> torch.Tensor:
    """The bin of every probability, of ten equal ones; 1 belongs to the last."""
    return (p * BINS).long().clamp(max=BINS - 1)


def _widened(mask: torch.Tensor) -> torch.Tensor:
    """A boolean mask [H, W] and all pixels at most the band's width from it, in rows and in columns."""
    reach = max(1, round(BAND * math.hypot(*mask.shape)))
    rows = F.max_pool2d(mask[None, None].float(), (1, 2 * reach + 1), 1, (0, reach))
    return F.max_pool2d(rows, (2 * reach + 1, 1), 1, (reach, 0))[0, 0] > 0
