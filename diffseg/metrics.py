"""Quality and calibration of foreground probabilities against binary masks, computed where the tensors live."""

import torch

BINS = 10


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
    """Pooled reliability of p(foreground) in ten equal bins [0, 0.1), … [0.9, 1]; nothing leaves the device until asked."""

    def __init__(self, device: torch.device | str):
        self.sums = torch.zeros(3, BINS, dtype=torch.float64, device=device)  # pixels, their p, their y

    def add(self, probability: torch.Tensor, mask: torch.Tensor) -> None:
        p, y = probability.flatten().double(), mask.flatten().double()
        index = (p * BINS).long().clamp(max=BINS - 1)
        for row, values in zip(self.sums, (torch.ones_like(p), p, y), strict=True):
            row.index_add_(0, index, values)

    def rows(self) -> list[dict]:
        """Per bin: count, confidence (mean p) and accuracy (share of foreground); NaN where a bin is empty."""
        count, p, y = self.sums
        columns = zip(count.tolist(), (p / count).tolist(), (y / count).tolist(), strict=True)
        return [{"bin": b, "count": int(n), "confidence": c, "accuracy": a} for b, (n, c, a) in enumerate(columns)]

    def ece(self) -> float:
        """Expected calibration error: Σ_b n_b/N |accuracy_b − confidence_b| (Naeini et al., 2015)."""
        count, p, y = self.sums
        return float((p - y).abs().sum() / count.sum())
