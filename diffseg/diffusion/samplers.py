"""Samplers: from noise at t = 1 to a clean signal at t = 0 in any number of equal steps of t.

All have one signature, `sample(denoise, x, steps, log_snr, noise) -> x0`:
    denoise(x_t, t) -> (x̂0, share)
                     the model, from [B, C, H, W] and a scalar t: x̂0 [B, C, H, W], already clipped, and where the log
                     variance of an ancestral step lies between small (0) and large (1), a number or a tensor like x̂0
    x                x_1 ~ N(0, I), [B, C, H, W]
    log_snr(t) -> λ  the schedule
    noise() -> z     fresh N(0, I) of x's shape
With n = T steps on a published schedule of T steps these are the published samplers; with fewer, each step's posterior
is that of the longer step, not that of one of the T.
"""

import itertools
from collections.abc import Callable

import torch

from diffseg.diffusion.schedules import alpha_sigma
from diffseg.diffusion.targets import to_epsilon


def times(steps: int, device: torch.device | str) -> torch.Tensor:
    """[steps + 1] times from 1 to 0, equally spaced, float64."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=device)


def ancestral(denoise: Callable, x: torch.Tensor, steps: int, log_snr: Callable, noise: Callable) -> torch.Tensor:
    """DDPM sampling from q(x_s | x_t, x̂0) (Ho et al., 2020, Eq. 6–7; Kingma et al., 2021, Eq. 29–32).

    The small variance is the posterior's, β̃_t, the large one β_t; in between, their logarithms are mixed by `share`
    (Nichol & Dhariwal, 2021, Eq. 15). The last step returns x̂0.
    """
    grid = times(steps, x.device)
    for t, s in itertools.pairwise(grid):
        x0, share = denoise(x, t)
        if s == 0:
            return x0
        lambda_t, lambda_s = log_snr(t), log_snr(s)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(lambda_t, x), alpha_sigma(lambda_s, x)
        c = -torch.expm1(lambda_t - lambda_s).to(x.dtype)
        deviation = c.sqrt() * sigma_s ** (1 - share) * sigma_t**share
        x = alpha_s / alpha_t * (1 - c) * x + alpha_s * c * x0 + deviation * noise()
    raise ValueError("sampling needs at least one step")


def ddim(denoise: Callable, x: torch.Tensor, steps: int, log_snr: Callable, noise: Callable) -> torch.Tensor:
    """Deterministic sampling (Song et al., 2021, Eq. 12 with σ = 0); ε̂ is derived anew from the clipped x̂0."""
    grid = times(steps, x.device)
    for t, s in itertools.pairwise(grid):
        x0, _ = denoise(x, t)
        if s == 0:
            return x0
        epsilon = to_epsilon(x0, x, *alpha_sigma(log_snr(t), x))
        alpha_s, sigma_s = alpha_sigma(log_snr(s), x)
        x = alpha_s * x0 + sigma_s * epsilon
    raise ValueError("sampling needs at least one step")


SAMPLERS = {"ancestral": ancestral, "ddim": ddim}
