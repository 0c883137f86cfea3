"""Quality of foreground probabilities and masks of one image, computed on the device of the tensors."""

import torch


def overlap(prediction: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (IoU, Dice) of the foreground of boolean tensors [H, W]. Empty against empty is 1."""
    both, total = (prediction & mask).sum().double(), (prediction.sum() + mask.sum()).double()
    empty = total == 0
    return torch.where(empty, 1.0, both / (total - both)), torch.where(empty, 1.0, 2 * both / total)


def brier(probability: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of (p − y)² over the pixels (Brier, 1950)."""
    return (probability - mask.to(probability.dtype)).square().mean()


def nll(probability: torch.Tensor, mask: torch.Tensor, members: int | None) -> torch.Tensor:
    """Return the mean negative log-likelihood of the pixels, in nats: −y ln p − (1 − y) ln(1 − p).

    An ensemble of n sampled masks cannot distinguish a probability below 1/n from 0. Its p is therefore clipped to
    [½/(n + 1), (n + ½)/(n + 1)], which keeps the value finite. With members=None, p is a network's own probability or a
    mean of such, and is clipped to [1e-6, 1 − 1e-6].
    """
    low = 1e-6 if members is None else 0.5 / (members + 1)
    p = probability.double().clamp(low, 1 - low)
    return -torch.where(mask.bool(), p.log(), (1 - p).log()).mean()


def categorical_nll(probabilities: torch.Tensor, masks: torch.Tensor, members: int | None) -> torch.Tensor:
    """Return the mean negative log-likelihood −ln p(true class) of the pixels, in nats, of exclusive classes.

    probabilities, masks: of the classes, [K, ...]; the rest is the background's. p(true class) is clipped as in `nll`,
    which this equals for one class.
    """
    low = 1e-6 if members is None else 0.5 / (members + 1)
    p, y = probabilities.double(), masks.bool()
    true = torch.where(y.any(0), (p * y).sum(0), 1 - p.sum(0))
    return -true.clamp(low, 1 - low).log().mean()
