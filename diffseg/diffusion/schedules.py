"""Noise schedules: the log-SNR λ(t), t in [0, 1]. Computed in float64, since ᾱ near 1 needs it."""

import math
from functools import lru_cache

import torch

from diffseg.config import Diffusion

LOG_SNR_LIMIT = 20.0  # |λ| at most: σ² = 2e-9 is clean, α² = 2e-9 is noise, in float32


def linear(t: torch.Tensor, steps: int) -> torch.Tensor:
    """λ of the linear β schedule (Ho et al., 2020, Sec. 4), β from 0.1/T to 20/T, exact at the T published points t = i/T.

    β is linear in i, so ᾱ_i = Π (1 − β_s) = d^i Γ(c) / Γ(c − i) with d the increment of β and c = (1 − β_1)/d + 1:
    an analytic function that also holds between the points.
    """
    first, last = 0.1 / steps, 20 / steps
    increment = (last - first) / (steps - 1)
    c = torch.tensor((1 - first) / increment + 1, dtype=torch.float64, device=t.device)
    i = t.double() * steps
    log_alpha_bar = i * math.log(increment) + torch.lgamma(c) - torch.lgamma(c - i)
    return -torch.log(torch.expm1(-log_alpha_bar.clamp(max=-math.exp(-LOG_SNR_LIMIT))))


def cosine(t: torch.Tensor, steps: int | None = None) -> torch.Tensor:
    """λ = −2 ln tan(πt/2), that is ᾱ = cos²(πt/2) (Nichol & Dhariwal, 2021, Eq. 17 with s = 0)."""
    return -2 * torch.log(torch.tan(t.double() * math.pi / 2))


SCHEDULES = {"linear": linear, "cosine": cosine}


def log_snr(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """λ(t) of the configured schedule, float64, of t's shape, within ±LOG_SNR_LIMIT.

    Input scaling b shifts it by 2 ln b (Chen, 2023; Christensen et al., 2025). Where an end lies beyond the limits, α² is
    mapped affinely so that it meets them, as in the latter's code; a schedule that stays within them is left as it is.
    """
    level = _unlimited(t, diffusion)
    first, last = _ends(diffusion)
    sigma2_first, alpha2_last = (max(1 / (1 + math.exp(LOG_SNR_LIMIT)), _sigmoid(end)) for end in (-first, last))
    share = (1 - sigma2_first - alpha2_last) / (1 - _sigmoid(-first) - _sigmoid(last))
    alpha2 = alpha2_last + share * (torch.sigmoid(level) - _sigmoid(last))
    sigma2 = sigma2_first + share * (torch.sigmoid(-level) - _sigmoid(-first))
    return alpha2.log() - sigma2.log()


def _unlimited(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    return SCHEDULES[diffusion.schedule](t, diffusion.steps) + 2 * math.log(diffusion.input_scale)


@lru_cache
def _ends(diffusion: Diffusion) -> tuple[float, float]:
    """λ at t = 0 and t = 1, without limits."""
    return tuple(_unlimited(torch.tensor([0.0, 1.0], dtype=torch.float64), diffusion).tolist())


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def alpha_sigma(log_snr: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """α and σ in `like`'s type, each [B, 1, 1, 1] for λ of shape [B], ready to scale a [B, C, H, W] tensor."""
    log_snr = log_snr.double().view(-1, *[1] * (like.dim() - 1))
    return torch.sigmoid(log_snr).sqrt().to(like.dtype), torch.sigmoid(-log_snr).sqrt().to(like.dtype)
