"""Samplers: from noise at t = 1 to a clean signal at t = 0 in any number of equal steps of t.

All have one signature, `sample(denoise, x, steps, log_snr, noise) -> x0`, and call denoise once a step, in order:
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

    def step(x, x0, share, lambda_t, lambda_s):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(lambda_t, x), alpha_sigma(lambda_s, x)
        c = -torch.expm1(lambda_t - lambda_s).to(x.dtype)
        deviation = c.sqrt() * sigma_s ** (1 - share) * sigma_t**share
        return alpha_s / alpha_t * (1 - c) * x + alpha_s * c * x0 + deviation * noise()

    return _walked(step, denoise, x, steps, log_snr)


def ddim(
    denoise: Callable, x: torch.Tensor, steps: int, log_snr: Callable, noise: Callable, eta: float = 0.0
) -> torch.Tensor:
    """Song et al., 2021, Eq. 12 with the σ(η) of Eq. 16; ε̂ is derived anew from the clipped x̂0.

    η = 0 draws no noise but the first; η = 1 is ancestral sampling with the small variance.
    """

    def step(x, x0, share, lambda_t, lambda_s):
        epsilon = to_epsilon(x0, x, *alpha_sigma(lambda_t, x))
        alpha_s, sigma_s = alpha_sigma(lambda_s, x)
        variance = eta**2 * -torch.expm1(lambda_t - lambda_s).to(x.dtype)  # of the fresh noise, as a share of σ_s²
        x = alpha_s * x0 + sigma_s * (1 - variance).sqrt() * epsilon
        return x + sigma_s * variance.sqrt() * noise() if eta else x

    return _walked(step, denoise, x, steps, log_snr)


def dpm_solver(denoise: Callable, x: torch.Tensor, steps: int, log_snr: Callable, noise: Callable) -> torch.Tensor:
    """DPM-Solver++(2M): deterministic, of second order in λ, from the last two x̂0 (Lu et al., 2022, Algorithm 2).

    Their λ is ln(α/σ), half of ours. The first step is of first order, which is DDIM's.
    """
    last, last_h = None, None

    def step(x, x0, share, lambda_t, lambda_s):
        nonlocal last, last_h
        (_, sigma_t), (alpha_s, sigma_s) = alpha_sigma(lambda_t, x), alpha_sigma(lambda_s, x)
        h = (lambda_s - lambda_t) / 2
        ahead = x0
        if last is not None:
            share = torch.where(last_h > 0, h / (2 * last_h), 0.0).to(x.dtype)  # 1/2r; 0 where the schedule stood still
            ahead = x0 + share * (x0 - last)
        last, last_h = x0, h
        return sigma_s / sigma_t * x - alpha_s * torch.expm1(-h).to(x.dtype) * ahead

    return _walked(step, denoise, x, steps, log_snr)


def _walked(step: Callable, denoise: Callable, x: torch.Tensor, steps: int, log_snr: Callable) -> torch.Tensor:
    """From t = 1 down to 0: x_s is step(x_t, x̂0, share, λ_t, λ_s), and the last step returns x̂0."""
    for left, (t, s) in zip(reversed(range(steps)), itertools.pairwise(times(steps, x.device)), strict=True):
        x0, share = denoise(x, t)
        if left == 0:  # s is 0, too, but asking it would wait for the device
            return x0
        x = step(x, x0, share, log_snr(t), log_snr(s))
    raise ValueError("sampling needs at least one step")


class Settling:
    """A denoiser for samplers that lets samples be whose mask, x̂0 above the middle, has been the same for `patience` steps.

    For them it is not asked again, and answers with their last x̂0; which they are depends on none but themselves.
    denoise(x_t, t, rows) -> (x̂0, share): as samplers want it, of rows of the batch. patience: None for never, without waiting
    for the device. x: of the batch's shape [B, C, H, W]. evaluations [B]: how often each sample was asked for.
    """

    def __init__(self, denoise: Callable, patience: int | None, middle: float, x: torch.Tensor):
        self.denoise, self.patience, self.middle = denoise, patience, middle
        self.evaluations = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.same = torch.full_like(self.evaluations, -1)  # so that a first mask, which is like none, counts 0
        self.x0, self.share = torch.full_like(x, torch.nan), None

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        if self.patience is None:
            self.evaluations += 1
            return self.denoise(x_t, t, slice(None))
        rows = (self.same < self.patience).nonzero()[:, 0]
        if len(rows):
            x0, share = self.denoise(x_t[rows], t, rows)
            alike = ((x0 > self.middle) == (self.x0[rows] > self.middle)).flatten(1).all(1)
            self.same[rows] = torch.where(alike, self.same[rows] + 1, 0)
            self.evaluations[rows] += 1
            self.x0 = self.x0.index_copy(0, rows, x0)  # not in place, since samplers keep the last ones
            if self.share is None:
                self.share = share
            elif isinstance(share, torch.Tensor):
                self.share = self.share.index_copy(0, rows, share)
        return self.x0, self.share


SAMPLERS = {"ancestral": ancestral, "ddim": ddim, "dpm-solver++": dpm_solver}
