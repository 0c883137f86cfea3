"""Errors of a recovered signal as a mask: of all classes, and of each of several."""

import torch

from diffseg.evaluation.metrics import nll, overlap
from diffseg.labels.labels import Labels, Masks


def measure_signal(x0: torch.Tensor, signal: torch.Tensor, truth: Masks, labels: Labels) -> dict[str, torch.Tensor]:
    """Return mask_error, dice_error and cross_entropy of x̂0 [B, C, H, W], each [B, rows] (`Denoising.measure_errors`).

    Args:
        x0: The prediction of the signal, not clipped.
        signal: The signal of the true masks.
        truth: The true masks.
        labels: The classes and their coding.
    """
    low, high = labels.coding.low, labels.coding.high
    x0 = x0.clamp(low, high)
    found, masks = labels.decode(x0), truth.channels[:, labels.foreground].bool()
    squared = ((x0 - signal) * 2 / (high - low)).square() if labels.linear else (2 * (found - masks.float())).square()
    errors = {
        "mask_error": _mean_by_class(squared, truth),
        "dice_error": _dice_errors(labels.decide(found, 0.5), masks, truth.valid),
        "cross_entropy": _cross_entropies(found, masks, truth),
    }
    means = {name: values.mean(1) for name, values in errors.items()}
    if labels.several:
        means["cross_entropy"] = _categorical_cross_entropy(found, masks, truth)
    if len(labels.classes.names) == 1:
        return errors
    return {name: torch.cat([means[name][:, None], values], dim=1) for name, values in errors.items()}


def _mean_by_class(errors: torch.Tensor, truth: Masks) -> torch.Tensor:
    """Return the mean of errors [B, K, H, W] over the pixels that count, [B, K]."""
    return torch.stack([truth.mean(errors[:, k : k + 1]) for k in range(errors.shape[1])], dim=1)


def _dice_errors(found: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Return 1 − Dice of each class of each image, [B, K], of bool masks [B, K, H, W]."""
    if valid is not None:
        found, masks = found & valid, masks & valid
    return 1 - overlap(found, masks)[1]


def _cross_entropies(found: torch.Tensor, masks: torch.Tensor, truth: Masks) -> torch.Tensor:
    """Return the binary cross-entropy of each class of each image, [B, K], of probabilities and masks [B, K, H, W]."""
    if truth.valid is None:
        return nll(found, masks, members=None)
    p = found.double().clamp(1e-6, 1 - 1e-6)
    errors = -torch.where(masks, p.log(), (1 - p).log())
    return _mean_by_class(errors, truth)


def _categorical_cross_entropy(found: torch.Tensor, masks: torch.Tensor, truth: Masks) -> torch.Tensor:
    """Return −ln p of the true class of a pixel, mean over the pixels, [B]. p is clipped as that of `nll`."""
    background = (1 - found.sum(1, keepdim=True)) * ~masks.any(1, keepdim=True)
    p = (found * masks).sum(1, keepdim=True) + background
    return truth.mean(-p.double().clamp(1e-6, 1 - 1e-6).log())
