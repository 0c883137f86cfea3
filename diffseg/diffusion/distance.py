"""Distances to the border of masks, on the device of the masks: those of scipy and monai make a training step wait."""

import math

import torch


def squared_distance_to_border(masks: torch.Tensor, reach: int) -> torch.Tensor:
    """Return the squared Euclidean distance of each pixel to the nearest one of the other kind, as masks [B, C, H, W], px².

    Distances beyond `reach` px are infinite. The transform is exact: lower envelopes of parabolas along each axis in turn
    (Felzenszwalb & Huttenlocher, 2012).
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


def signed_distance(masks: torch.Tensor, limit: float) -> torch.Tensor:
    """Return the distance of each pixel's centre to the border of masks [B, C, H, W] in px, positive inside.

    The border lies half a pixel beyond the last pixel inside. Distances beyond the limit are cut, as are those in masks
    without a border.
    """
    distance = squared_distance_to_border(masks, reach=math.ceil(limit + 0.5)).sqrt() - 0.5
    return torch.where(masks > 0.5, distance, -distance).clamp(-limit, limit)


def _envelope(values: torch.Tensor, dim: int, reach: int) -> torch.Tensor:
    """Return the minimum over |k| ≤ reach of values[i + k] + k² along a dimension."""
    size = values.shape[dim]
    lowest = values
    for k in range(1, min(reach, size - 1) + 1):
        ahead, behind = values.narrow(dim, k, size - k) + k**2, values.narrow(dim, 0, size - k) + k**2
        blank = values.new_full((), torch.inf).expand_as(values.narrow(dim, 0, k))
        lowest = lowest.minimum(torch.cat([ahead, blank], dim)).minimum(torch.cat([blank, behind], dim))
    return lowest
