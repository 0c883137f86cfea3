"""Quality of foreground probabilities and masks [..., H, W], computed on the device of the tensors for all images at once."""

import torch


def mean_over_pixels(values: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean [...] of values [..., H, W] over the pixels that count; NaN if none does.

    valid: bool, broadcast to the values; None if all pixels count. Sums are float64, so that neither the batch nor the
    threads show in them.
    """
    if valid is None:
        return values.flatten(-2).mean(-1, dtype=torch.float64)
    total = values.masked_fill(~valid, 0).flatten(-2).sum(-1, dtype=torch.float64)
    return total / valid.flatten(-2).sum(-1)


def overlap(prediction: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (IoU, Dice) [...] of the foreground of boolean tensors [..., H, W]. Empty against empty is 1."""
    both, ours, theirs = (masks.sum((-2, -1)) for masks in (prediction & mask, prediction, mask))
    both, total = both.double(), (ours + theirs).double()
    empty = total == 0
    return torch.where(empty, 1.0, both / (total - both)), torch.where(empty, 1.0, 2 * both / total)


def brier(probability: torch.Tensor, mask: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean [...] of (p − y)² over the pixels that count (Brier, 1950)."""
    return mean_over_pixels((probability - mask.to(probability.dtype)).square(), valid)


def nll(
    probability: torch.Tensor, mask: torch.Tensor, members: int | None, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean negative log-likelihood [...] of the pixels, in nats: −y ln p − (1 − y) ln(1 − p).

    An ensemble of n sampled masks cannot distinguish a probability below 1/n from 0. Its p is therefore clipped to
    [½/(n + 1), (n + ½)/(n + 1)], which keeps the value finite. With members=None, p is a network's own probability or a
    mean of such, and is clipped to [1e-6, 1 − 1e-6].
    """
    low = 1e-6 if members is None else 0.5 / (members + 1)
    p = probability.double().clamp(low, 1 - low)
    return -mean_over_pixels(torch.where(mask.bool(), p, 1 - p).log(), valid)


def categorical_nll(
    probabilities: torch.Tensor, masks: torch.Tensor, members: int | None, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean negative log-likelihood −ln p(true class) [...] of the pixels, in nats, of exclusive classes.

    probabilities, masks: of the classes, [..., K, H, W]; the rest is the background's. p(true class) is clipped as in `nll`,
    which this equals for one class.
    """
    low = 1e-6 if members is None else 0.5 / (members + 1)
    p, y = probabilities.double(), masks.bool()
    true = torch.where(y.any(-3), (p * y).sum(-3), 1 - p.sum(-3))
    return -mean_over_pixels(true.clamp(low, 1 - low).log(), valid)


def number_classes(masks: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the number of each pixel's class, uint8, 0 for background, given masks of exclusive classes along `dim`."""
    numbers = torch.zeros_like(masks.select(dim, 0), dtype=torch.uint8)
    for number, own in enumerate(masks.unbind(dim), 1):
        numbers = torch.where(own, number, numbers)
    return numbers
