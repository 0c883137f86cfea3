"""The variational term that trains a learnt variance (Nichol & Dhariwal, 2021, Sec. 3.1; Ho et al., 2020, Eq. 5)."""

import math
from collections.abc import Callable

import torch

from diffseg.diffusion.schedules import alpha_sigma

HALF_BIN = 1 / 255  # of the 256 grey levels in [−1, 1] that the decoder's likelihood counts


def bound(
    x0: torch.Tensor, predicted: torch.Tensor, share: torch.Tensor, t: torch.Tensor, log_snr: Callable, steps: int
) -> torch.Tensor:
    """KL(q(x_s | x_t, x0) ‖ p(x_s | x_t)) with s = t − 1/steps, or −log p(x0 | x_t) where s ≤ 0; bits per dimension, [B].

    x0, predicted (x̂0, detached: it is not trained by this term), share: [B, C, H, W]. share is where the log variance of
    p lies between that of the posterior, β̃_t, and β_t (Eq. 15). t: [B].
    """
    s = (t - 1 / steps).clamp(min=0)
    lambda_t, lambda_s = log_snr(t), log_snr(s)
    (alpha_s, _), (_, sigma_t) = alpha_sigma(lambda_s, x0), alpha_sigma(lambda_t, x0)
    c = _like(-torch.expm1(lambda_t - lambda_s), x0)
    large = (c * sigma_t.square()).log()
    small = _posterior_log_variance(t.clamp(min=2 / steps), log_snr, steps, x0)
    log_variance = share * large + (1 - share) * small
    gap = (alpha_s * c * (x0 - predicted)).square()
    kl = 0.5 * (log_variance - small - 1 + (small - log_variance).exp() + gap * (-log_variance).exp())
    likelihood = _discretised_log_likelihood(x0, predicted, 0.5 * log_variance)
    first = (s == 0).view(-1, *[1] * (x0.dim() - 1))
    return torch.where(first, -likelihood, kl).flatten(1).mean(1) / math.log(2)


def _posterior_log_variance(t, log_snr, steps, like) -> torch.Tensor:
    """log β̃_t. Called with t ≥ 2/steps: at the first step it would be −∞, and the second step's is used, as published."""
    lambda_t, lambda_s = log_snr(t), log_snr(t - 1 / steps)
    return (_like(-torch.expm1(lambda_t - lambda_s), like) * alpha_sigma(lambda_s, like)[1].square()).log()


def _discretised_log_likelihood(x: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """log of the Gaussian's mass on x's grey level; the outermost levels reach to infinity (Ho et al., 2020, Eq. 13)."""
    above, below = (torch.special.ndtr((x - mean + side) * (-log_scale).exp()) for side in (HALF_BIN, -HALF_BIN))
    mass = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return mass.clamp(min=1e-12).log()


def _like(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *[1] * (like.dim() - 1)).to(like.dtype)
