"""Distances to the border of masks, on the device of the masks: those of scipy and monai make a training step wait."""

import math

import torch


def squared_distance_to_border(masks: torch.Tensor, reach: int, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Return the squared Euclidean distance of each pixel to the nearest one of the other kind, as masks [B, C, H, W], px².

    Distances beyond `reach` px are infinite. The transform is exact: lower envelopes of parabolas along each axis in turn
    (Felzenszwalb & Huttenlocher, 2012). valid: bool [B, 1, H, W], the pixels of a known kind, which alone have a distance
    of 0 from others; None if all are known.
    """
    foreground = masks > 0.5
    targets = torch.stack([foreground, ~foreground])
    if valid is not None:
        targets &= valid
    to_foreground, to_background = _envelopes(targets, reach)
    squared = torch.where(foreground, to_background, to_foreground)
    return squared.masked_fill(squared > reach**2, torch.inf)


def signed_distance(masks: torch.Tensor, limit: float, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Return the distance of each pixel's centre to the border of masks [B, C, H, W] in px, positive inside.

    The border lies half a pixel beyond the last pixel inside. Distances beyond the limit are cut, as are those in masks
    without a border. valid: as in `squared_distance_to_border`.
    """
    distance = squared_distance_to_border(masks, math.ceil(limit + 0.5), valid).sqrt() - 0.5
    return torch.where(masks > 0.5, distance, -distance).clamp(-limit, limit)


def _envelopes(targets: torch.Tensor, reach: int) -> torch.Tensor:
    """Return the squared distance of each pixel to the nearest target [*, H, W]."""
    distances = torch.zeros(targets.shape, device=targets.device).masked_fill(~targets, torch.inf)
    for dim in (-2, -1):
        distances = _envelope(distances, dim, reach)
    return distances


def _envelope(values: torch.Tensor, dim: int, reach: int) -> torch.Tensor:
    """Return the minimum over |k| ≤ reach of values[i + k] + k² along a dimension."""
    size = values.shape[dim]
    lowest = values.clone()
    for k in range(1, min(reach, size - 1) + 1):
        raised, rest = values + k**2, size - k
        for first, second in ((0, k), (k, 0)):
            part = lowest.narrow(dim, first, rest)
            torch.minimum(part, raised.narrow(dim, second, rest), out=part)
    return lowest
