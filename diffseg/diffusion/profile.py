"""Profiles: curves over the log-SNR, such as a data set's fingerprint, used as a loss weighting or a training density."""

from functools import lru_cache

import torch

from diffseg.config import Diffusion
from diffseg.diffusion.schedules import log_snr

BINS = 1000  # equal intervals of t; the density is constant in each
POINTS = 20  # points of the integral over a bin


def evaluate(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return max(profile/its largest weight, floor)^exponent at the log-SNRs, between 0 and 1.

    The profile is linear between its knots and constant beyond the outermost ones.
    """
    levels, weights = _knots(diffusion.profile, level.device)
    place = level.clamp(levels[0], levels[-1])
    after = torch.searchsorted(levels, place).clamp(min=1)
    share = (place - levels[after - 1]) / (levels[after] - levels[after - 1])
    heights = torch.lerp(weights[after - 1], weights[after], share)
    return heights.clamp(min=diffusion.profile_floor).pow(diffusion.profile_exponent)


def weight(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return the profile as a loss weight: (1 − diffusion.mixing) times the profile plus diffusion.mixing."""
    return torch.lerp(evaluate(level, diffusion), torch.ones_like(level), diffusion.mixing)


def bin_probabilities(diffusion: Diffusion, device: torch.device | str) -> torch.Tensor:
    """Return the probability of each bin of t in training, [BINS].

    The density of λ is proportional to the profile. The share diffusion.mixing is uniform in t.
    """
    return _bin_probabilities(diffusion, torch.device(device))


@lru_cache
def _knots(profile: tuple[tuple[float, float], ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (λ, weight as a share of the largest) of the knots, each [N]."""
    with torch.inference_mode(False):
        levels, weights = torch.tensor(profile, dtype=torch.float64).unbind(1)
        return levels.contiguous().to(device), (weights / weights.max()).to(device)


@lru_cache
def _bin_probabilities(diffusion: Diffusion, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        levels = log_snr(torch.linspace(0, 1, BINS * POINTS + 1, dtype=torch.float64), diffusion)
        heights = evaluate(levels, diffusion)
        areas = -levels.diff() * (heights[1:] + heights[:-1]) / 2
        found = areas.view(BINS, POINTS).sum(1)
        return torch.lerp(found / found.sum(), torch.full_like(found, 1 / BINS), diffusion.mixing).to(device)
