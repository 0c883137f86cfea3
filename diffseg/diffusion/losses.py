"""Losses at one noise level, before weighting.

All have one signature, `loss(prediction, target, logits, masks, diffusion) -> map`, with tensors [B, C, H, W]. The mean of
the map over an image is the image's loss.

    prediction  the network's prediction of the target, after its activation
    target      what it should be
    logits      the network's output before the activation
    masks       the true masks, 0 or 1
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from diffseg.config import Diffusion
from diffseg.diffusion.registry import register

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Diffusion], torch.Tensor]
LOSSES: dict[str, Loss] = {}


@register(LOSSES, "mse")
def squared_error(
    prediction: torch.Tensor, target: torch.Tensor, logits: torch.Tensor, masks: torch.Tensor, diffusion: Diffusion
) -> torch.Tensor:
    """Return the squared error of the target (Ho et al., 2020, Eq. 14)."""
    return F.mse_loss(prediction, target, reduction="none")


@register(LOSSES, "boundary")
def boundary(
    prediction: torch.Tensor, target: torch.Tensor, logits: torch.Tensor, masks: torch.Tensor, diffusion: Diffusion
) -> torch.Tensor:
    """Return the squared error times 1 + w exp(−d²/2s²) at d pixels from the border (Ronneberger et al., 2015, Eq. 2).

    d is the distance to the nearest pixel of the other class. In masks without a border the factor is 1 everywhere.
    """
    width = diffusion.boundary_width
    near = (-squared_distance_to_border(masks, reach=round(3 * width)) / (2 * width**2)).exp()
    return squared_error(prediction, target, logits, masks, diffusion) * (1 + diffusion.boundary_weight * near)


@register(LOSSES, "cross-entropy")
def cross_entropy(
    prediction: torch.Tensor, target: torch.Tensor, logits: torch.Tensor, masks: torch.Tensor, diffusion: Diffusion
) -> torch.Tensor:
    """Return the binary cross-entropy of the mask, given the logits of its foreground."""
    return F.binary_cross_entropy_with_logits(logits, masks, reduction="none")


@register(LOSSES, "dice-cross-entropy")
def dice_cross_entropy(
    prediction: torch.Tensor, target: torch.Tensor, logits: torch.Tensor, masks: torch.Tensor, diffusion: Diffusion
) -> torch.Tensor:
    """Return Dice loss plus cross-entropy, equally weighted: monai's DiceCELoss, image by image."""
    dice: torch.Tensor = _dice()(logits, masks)
    return dice + cross_entropy(prediction, target, logits, masks, diffusion)


def squared_distance_to_border(masks: torch.Tensor, reach: int) -> torch.Tensor:
    """Return the squared Euclidean distance of each pixel to the nearest one of the other class, [B, 1, H, W], px².

    Distances beyond `reach` px are infinite. The transform is exact: lower envelopes of parabolas along each axis in turn
    (Felzenszwalb & Huttenlocher, 2012). It runs on the device of the masks, while those of scipy and monai run on the
    host, which a training step must not wait for.
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
    """Return the minimum over |k| ≤ reach of values[i + k] + k² along a dimension."""
    size = values.shape[dim]
    lowest = values
    for k in range(1, min(reach, size - 1) + 1):
        ahead, behind = values.narrow(dim, k, size - k) + k**2, values.narrow(dim, 0, size - k) + k**2
        blank = values.new_full((), torch.inf).expand_as(values.narrow(dim, 0, k))
        lowest = lowest.minimum(torch.cat([ahead, blank], dim)).minimum(torch.cat([blank, behind], dim))
    return lowest


@lru_cache
def _dice() -> Any:  # monai has no types
    from monai.losses.dice import DiceLoss  # several seconds of imports

    return DiceLoss(sigmoid=True, reduction="none")
