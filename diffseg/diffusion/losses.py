"""Losses at one noise level, before weighting.

All have one signature, `loss(prediction, target, logits, masks, labels, diffusion) -> map`, with tensors [B, *, H, W]. The mean
of the map over an image's pixels that count is the image's loss.

    prediction  the network's prediction of the target, after its activation
    target      what it should be
    logits      the network's output before the activation
    masks       the true masks (`diffseg.labels.labels.Masks`)
    labels      the classes and their coding
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from diffseg.config import Diffusion
from diffseg.diffusion.distance import squared_distance_to_border
from diffseg.diffusion.registry import register
from diffseg.labels.labels import Labels, Masks

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Masks, Labels, Diffusion], torch.Tensor]
LOSSES: dict[str, Loss] = {}


@register(LOSSES, "mse")
def squared_error(
    prediction: torch.Tensor,
    target: torch.Tensor,
    logits: torch.Tensor,
    masks: Masks,
    labels: Labels,
    diffusion: Diffusion,
) -> torch.Tensor:
    """Return the squared error of the target (Ho et al., 2020, Eq. 14)."""
    return F.mse_loss(prediction, target, reduction="none")


@register(LOSSES, "boundary")
def boundary(
    prediction: torch.Tensor,
    target: torch.Tensor,
    logits: torch.Tensor,
    masks: Masks,
    labels: Labels,
    diffusion: Diffusion,
) -> torch.Tensor:
    """Return the squared error times 1 + w exp(−d²/2s²) at d pixels from the border (Ronneberger et al., 2015, Eq. 2).

    d is the distance to the nearest pixel of a known other class. In masks without a border the factor is 1 everywhere.
    """
    width = diffusion.boundary_width
    squared = squared_distance_to_border(masks.channels, round(3 * width), masks.valid)
    near = (-squared.amin(1, keepdim=True) / (2 * width**2)).exp()
    return F.mse_loss(prediction, target, reduction="none") * (1 + diffusion.boundary_weight * near)


@register(LOSSES, "cross-entropy")
def cross_entropy(
    prediction: torch.Tensor,
    target: torch.Tensor,
    logits: torch.Tensor,
    masks: Masks,
    labels: Labels,
    diffusion: Diffusion,
) -> torch.Tensor:
    """Return the cross-entropy of the classes or, with coding bits, that of each digit, given their logits."""
    if labels.compete:
        return class_cross_entropy(logits, masks, labels)
    return F.binary_cross_entropy_with_logits(logits, labels.coding.units(masks.channels), reduction="none")


@register(LOSSES, "dice-cross-entropy")
def dice_cross_entropy(
    prediction: torch.Tensor,
    target: torch.Tensor,
    logits: torch.Tensor,
    masks: Masks,
    labels: Labels,
    diffusion: Diffusion,
) -> torch.Tensor:
    """Return Dice loss plus cross-entropy, equally weighted, image by image."""
    return dice(logits, masks, labels) + class_cross_entropy(logits, masks, labels)


def class_cross_entropy(logits: torch.Tensor, masks: Masks, labels: Labels) -> torch.Tensor:
    """Return the cross-entropy of logits with one channel a class.

    That of exclusive classes is categorical, [B, 1, H, W]; others have a binary one each, [B, C, H, W].
    """
    if labels.several:
        return F.cross_entropy(logits, masks.channels.argmax(1), reduction="none")[:, None]
    return F.binary_cross_entropy_with_logits(logits, masks.channels, reduction="none")


def mean_class_cross_entropy(logits: torch.Tensor, masks: Masks, labels: Labels) -> torch.Tensor:
    """Return the mean [] of `class_cross_entropy` over the images, channels and pixels that count."""
    if masks.valid is None and not labels.several:  # torch's own mean, whose gradient is rounded in another way
        return F.binary_cross_entropy_with_logits(logits, masks.channels)
    return masks.mean(class_cross_entropy(logits, masks, labels)).mean()


def dice(logits: torch.Tensor, masks: Masks, labels: Labels) -> torch.Tensor:
    """Return monai's Dice loss of each class, [B, K, 1, 1], given logits with one channel a class."""
    probabilities = labels.activate(logits)[:, labels.foreground]
    channels = masks.channels[:, labels.foreground]
    if masks.valid is not None:
        probabilities, channels = probabilities * masks.valid, channels * masks.valid
    found: torch.Tensor = _dice()(probabilities, channels)
    return found


@lru_cache
def _dice() -> Any:  # monai has no types
    from monai.losses.dice import DiceLoss  # several seconds of imports

    return DiceLoss(reduction="none")
