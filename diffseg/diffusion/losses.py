"""What is minimised at one noise level, before weighting: maps [B, C, H, W], whose mean over an image is its loss."""

from functools import lru_cache

import torch
import torch.nn.functional as F

from diffseg.config import Diffusion


def squared_error(prediction, wanted, logits, masks, diffusion: Diffusion) -> torch.Tensor:
    """Of the target (Ho et al., 2020, Eq. 14)."""
    return F.mse_loss(prediction, wanted, reduction="none")


def boundary(prediction, wanted, logits, masks, diffusion: Diffusion) -> torch.Tensor:
    """The squared error with a weight of 1 + w exp(−d²/2s²) at d pixels from the border (Ronneberger et al., 2015, Eq. 2).

    d is the distance to the nearest pixel of the other class. Masks without a border weigh 1 everywhere.
    """
    width = diffusion.boundary_width
    near = (-squared_distance_to_border(masks, reach=round(3 * width)) / (2 * width**2)).exp()
    return squared_error(prediction, wanted, logits, masks, diffusion) * (1 + diffusion.boundary_weight * near)


def cross_entropy(prediction, wanted, logits, masks, diffusion: Diffusion) -> torch.Tensor:
    """Of the mask, the prediction being logits."""
    return F.binary_cross_entropy_with_logits(logits, masks, reduction="none")


def dice_cross_entropy(prediction, wanted, logits, masks, diffusion: Diffusion) -> torch.Tensor:
    """Dice plus cross-entropy, equally weighted: monai's DiceCELoss, image by image."""
    return _dice()(logits, masks) + cross_entropy(prediction, wanted, logits, masks, diffusion)


LOSSES = {
    "mse": squared_error,
    "boundary": boundary,
    "cross-entropy": cross_entropy,
    "dice-cross-entropy": dice_cross_entropy,
}


def squared_distance_to_border(masks: torch.Tensor, reach: int) -> torch.Tensor:
    """Squared Euclidean distance [B, 1, H, W] of each pixel to the nearest one of the other class, px²; beyond reach, infinite.

    Exact, by lower envelopes of parabolas along each axis in turn (Felzenszwalb & Huttenlocher, 2012), and computed where
    the masks are: the transforms of scipy and monai go through the host, which a training step must not wait for.
    """
    foreground = masks > 0.5
    to_foreground, to_background = (
        torch.zeros(masks.shape, device=masks.device).masked_fill(~inside, torch.inf)
        for inside in (foreground, ~foreground)
    )
    for dim in (-2, -1):
        to_foreground, to_background = _envelope(to_foreground, dim, reach), _envelope(to_background, dim, reach)
    squared = torch.where(foreground, to_background, to_foreground)
    return squared.masked_fill(squared > reach**2, torch.inf)


def _envelope(values: torch.Tensor, dim: int, reach: int) -> torch.Tensor:
    """min over |k| ≤ reach of values[i + k] + k² along a dimension."""
    size = values.shape[dim]
    lowest = values
    for k in range(1, min(reach, size - 1) + 1):
        ahead, behind = values.narrow(dim, k, size - k) + k**2, values.narrow(dim, 0, size - k) + k**2
        blank = values.new_full((), torch.inf).expand_as(values.narrow(dim, 0, k))
        lowest = lowest.minimum(torch.cat([ahead, blank], dim)).minimum(torch.cat([blank, behind], dim))
    return lowest


@lru_cache
def _dice():
    from monai.losses import DiceLoss  # several seconds of imports

    return DiceLoss(sigmoid=True, reduction="none")
