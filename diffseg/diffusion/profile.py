"""Profiles: curves over the log-SNR, such as a data set's fingerprint, used as a loss weighting or a training density."""

from functools import lru_cache

import torch

from diffseg.config import Diffusion
from diffseg.diffusion.schedules import log_snr
from diffseg.section import Curve

BINS = 1000  # equal intervals of t; the density is constant in each
POINTS = 20  # points of the integral over a bin


def evaluate(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return max(profile/its largest weight, floor)^exponent at the log-SNRs, between 0 and 1.

    The profile is linear between its knots and constant beyond the outermost ones.
    """
    return _evaluate(level, _knots(diffusion.profile, level.device), diffusion)


def heights_of_bins(knots: Curve, diffusion: Diffusion) -> torch.Tensor:
    """Return the curve of some knots in the middle of each bin of t, as `evaluate`, [BINS], on the CPU."""
    middles = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS
    return _evaluate(log_snr(middles, diffusion), _normalise(knots), diffusion)


def probabilities_of_bins(knots: Curve, diffusion: Diffusion) -> torch.Tensor:
    """Return the probability of each bin of t in training with the curve of some knots, as `bin_probabilities`, on the CPU."""
    levels = log_snr(torch.linspace(0, 1, BINS * POINTS + 1, dtype=torch.float64), diffusion)
    heights = _evaluate(levels, _normalise(knots), diffusion)
    areas = -levels.diff() * (heights[1:] + heights[:-1]) / 2
    found = areas.view(BINS, POINTS).sum(1)
    return torch.lerp(found / found.sum(), torch.full_like(found, 1 / BINS), diffusion.mixing)


def _evaluate(level: torch.Tensor, knots: tuple[torch.Tensor, torch.Tensor], diffusion: Diffusion) -> torch.Tensor:
    levels, weights = knots
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


def _normalise(knots: Curve) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (λ, weight as a share of the largest) of the knots, each [N]."""
    levels, weights = torch.tensor(knots, dtype=torch.float64).unbind(1)
    return levels.contiguous(), weights / weights.max()


@lru_cache
def _knots(profile: Curve, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False):
        levels, weights = _normalise(profile)
        return levels.to(device), weights.to(device)


@lru_cache
def _bin_probabilities(diffusion: Diffusion, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        return probabilities_of_bins(diffusion.profile, diffusion).to(device)
