"""A curve over the log-SNR, such as a data set's fingerprint, that weighs noise levels or says how often to train them."""

from functools import lru_cache

import torch

from diffseg.config import Diffusion
from diffseg.diffusion.schedules import log_snr

BINS = 1000  # of t, in each of which the density is constant
POINTS = 20  # of the integral over each


def shaped(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """max(profile/its greatest weight, floor)^exponent at the log-SNRs; beyond the outermost knots it stays as there."""
    levels, weights = _knots(diffusion.profile, level.device)
    place = level.clamp(levels[0], levels[-1])
    after = torch.searchsorted(levels, place).clamp(min=1)
    share = (place - levels[after - 1]) / (levels[after] - levels[after - 1])
    return torch.lerp(weights[after - 1], weights[after], share).clamp(min=diffusion.profile_floor) ** (
        diffusion.profile_exponent
    )


def weight(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """The profile as a weight, with a share of 1 mixed in."""
    return torch.lerp(shaped(level, diffusion), torch.ones_like(level), diffusion.mixing)


def masses(diffusion: Diffusion, device: torch.device) -> torch.Tensor:
    """[BINS] shares of the training timesteps: a density of λ in proportion to the profile, with a share of uniform t."""
    return _masses(diffusion, torch.device(device))


@lru_cache
def _knots(profile: tuple, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False):
        levels, weights = torch.tensor(profile, dtype=torch.float64).unbind(1)
        return levels.contiguous().to(device), (weights / weights.max()).to(device)


@lru_cache
def _masses(diffusion: Diffusion, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        levels = log_snr(torch.linspace(0, 1, BINS * POINTS + 1, dtype=torch.float64), diffusion)
        heights = shaped(levels, diffusion)
        areas = -levels.diff() * (heights[1:] + heights[:-1]) / 2
        found = areas.view(BINS, POINTS).sum(1)
        return torch.lerp(found / found.sum(), torch.full_like(found, 1 / BINS), diffusion.mixing).to(device)
