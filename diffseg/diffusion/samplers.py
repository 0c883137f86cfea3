"""Samplers: from noise at t = 1 to a clean signal at t = 0, over any falling grid of times.

All have one signature, `sample(denoise, x, times, log_snr, noise, eta) -> x0`, and call `denoise` once a step, in order, or
twice (`TWICE`):

    denoise(x_t, t) -> (x̂0, share)
                     the model, from [B, C, H, W] and a scalar t: x̂0 [B, C, H, W], already clipped, and the place of an
                     ancestral step's log variance between the small (0) and the large (1) one, a number or a tensor
                     like x̂0
    x                x_1 ~ N(0, I), [B, C, H, W]
    times            [n + 1] times from 1 to 0 (`diffseg.diffusion.grids`)
    log_snr(t) -> λ  the noise schedule
    noise() -> z     fresh N(0, I) of x's shape
    eta              the share of an ancestral step's noise that is added, 0 to 1; only `ddim` uses it

With n = T uniform steps on a published schedule of T steps these are the published samplers. With fewer, the posterior of
each step is that of the longer step, not that of one of the T.
"""

import itertools
from collections.abc import Callable
from typing import Protocol

import torch

from diffseg.config.inference import TWICE
from diffseg.diffusion.grids import LogSNR
from diffseg.diffusion.registry import register
from diffseg.diffusion.schedules import alpha_sigma
from diffseg.diffusion.targets import to_epsilon

Share = torch.Tensor | float
Denoise = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Share]]
Noise = Callable[[], torch.Tensor]
Step = Callable[[torch.Tensor, torch.Tensor, Share, torch.Tensor, torch.Tensor], torch.Tensor]


class Sampler(Protocol):
    """A function that draws clean signals; see the module for its arguments."""

    def __call__(
        self,
        denoise: Denoise,
        x: torch.Tensor,
        times: torch.Tensor,
        log_snr: LogSNR,
        noise: Noise,
        eta: float = 0.0,
    ) -> torch.Tensor:
        """Return x0 [B, C, H, W]."""


SAMPLERS: dict[str, Sampler] = {}


@register(SAMPLERS, "ancestral")
def ancestral(
    denoise: Denoise, x: torch.Tensor, times: torch.Tensor, log_snr: LogSNR, noise: Noise, eta: float = 0.0
) -> torch.Tensor:
    """Sample by DDPM, from q(x_s | x_t, x̂0) (Ho et al., 2020, Eq. 6–7; Kingma et al., 2021, Eq. 29–32).

    The small variance is the posterior's, β̃_t, the large one is β_t. In between, `share` mixes their logarithms
    (Nichol & Dhariwal, 2021, Eq. 15). The last step returns x̂0.
    """

    def step(
        x: torch.Tensor, x0: torch.Tensor, share: Share, lambda_t: torch.Tensor, lambda_s: torch.Tensor
    ) -> torch.Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(lambda_t, x), alpha_sigma(lambda_s, x)
        c = -torch.expm1(lambda_t - lambda_s).to(x.dtype)
        deviation = c.sqrt() * sigma_s ** (1 - share) * sigma_t**share
        return alpha_s / alpha_t * (1 - c) * x + alpha_s * c * x0 + deviation * noise()

    return run_steps(step, denoise, x, times, log_snr)


@register(SAMPLERS, "ddim")
def ddim(
    denoise: Denoise, x: torch.Tensor, times: torch.Tensor, log_snr: LogSNR, noise: Noise, eta: float = 0.0
) -> torch.Tensor:
    """Sample by DDIM (Song et al., 2021, Eq. 12 with the σ(η) of Eq. 16). ε̂ is recomputed from the clipped x̂0.

    η = 0 draws no noise but the first; η = 1 is ancestral sampling with the small variance.
    """

    def step(
        x: torch.Tensor, x0: torch.Tensor, share: Share, lambda_t: torch.Tensor, lambda_s: torch.Tensor
    ) -> torch.Tensor:
        epsilon = to_epsilon(x0, x, *alpha_sigma(lambda_t, x))
        alpha_s, sigma_s = alpha_sigma(lambda_s, x)
        variance = eta**2 * -torch.expm1(lambda_t - lambda_s).to(x.dtype)  # of the fresh noise, as a share of σ_s²
        x = alpha_s * x0 + sigma_s * (1 - variance).sqrt() * epsilon
        return x + sigma_s * variance.sqrt() * noise() if eta else x

    return run_steps(step, denoise, x, times, log_snr)


@register(SAMPLERS, "dpm-solver++")
def dpm_solver(
    denoise: Denoise, x: torch.Tensor, times: torch.Tensor, log_snr: LogSNR, noise: Noise, eta: float = 0.0
) -> torch.Tensor:
    """Sample by DPM-Solver++(2M), from the last two x̂0 (Lu et al., 2022, Algorithm 2).

    It is deterministic and of second order in λ. Their λ is ln(α/σ), half of ours. The first step is of first order and
    equals DDIM's.
    """
    ahead = _Extrapolation()

    def step(
        x: torch.Tensor, x0: torch.Tensor, share: Share, lambda_t: torch.Tensor, lambda_s: torch.Tensor
    ) -> torch.Tensor:
        (_, sigma_t), (alpha_s, sigma_s) = alpha_sigma(lambda_t, x), alpha_sigma(lambda_s, x)
        h = (lambda_s - lambda_t) / 2
        return sigma_s / sigma_t * x - alpha_s * torch.expm1(-h).to(x.dtype) * ahead(x0, h)

    return run_steps(step, denoise, x, times, log_snr)


@register(SAMPLERS, "sde-dpm-solver++")
def sde_dpm_solver(
    denoise: Denoise, x: torch.Tensor, times: torch.Tensor, log_snr: LogSNR, noise: Noise, eta: float = 0.0
) -> torch.Tensor:
    """Sample by SDE-DPM-Solver++(2M), from the last two x̂0 and fresh noise (Lu et al., 2022, App. B).

    The first step is of first order and equals ancestral sampling with the small variance.
    """
    ahead = _Extrapolation()

    def step(
        x: torch.Tensor, x0: torch.Tensor, share: Share, lambda_t: torch.Tensor, lambda_s: torch.Tensor
    ) -> torch.Tensor:
        (_, sigma_t), (alpha_s, sigma_s) = alpha_sigma(lambda_t, x), alpha_sigma(lambda_s, x)
        h = (lambda_s - lambda_t) / 2
        fresh = -torch.expm1(-2 * h).to(x.dtype)
        kept = sigma_s / sigma_t * torch.exp(-h).to(x.dtype) * x
        return kept + alpha_s * fresh * ahead(x0, h) + sigma_s * fresh.sqrt() * noise()

    return run_steps(step, denoise, x, times, log_snr)


@register(SAMPLERS, "heun")
def heun(
    denoise: Denoise, x: torch.Tensor, times: torch.Tensor, log_snr: LogSNR, noise: Noise, eta: float = 0.0
) -> torch.Tensor:
    """Sample by Heun's method in σ/α (Karras et al., 2022, Algorithm 1), where an Euler step equals DDIM's.

    Every step but the last evaluates the network twice.
    """
    return _run_heun(denoise, x, times, log_snr, straight=0.0)


@register(SAMPLERS, "flow-heun")
def flow_heun(
    denoise: Denoise, x: torch.Tensor, times: torch.Tensor, log_snr: LogSNR, noise: Noise, eta: float = 0.0
) -> torch.Tensor:
    """Sample by Heun's method along the straight paths (1 − s) x0 + s ε of flow matching (Lipman et al., 2023; Liu et al., 2023).

    s = σ/(α + σ). An Euler step equals DDIM's. Every step but the last evaluates the network twice.
    """
    return _run_heun(denoise, x, times, log_snr, straight=1.0)


def count_steps(sampler: str, evaluations: int) -> int:
    """Return the most steps that a sampler takes with this number of network evaluations; at least one."""
    return (evaluations + 1) // 2 if sampler in TWICE else evaluations


def _run_heun(denoise: Denoise, x: torch.Tensor, times: torch.Tensor, log_snr: LogSNR, straight: float) -> torch.Tensor:
    """Apply Heun's method to x/(α + straight σ), whose derivative by σ/(α + straight σ) is ε̂ − straight x̂0."""
    for left, (t, s) in zip(reversed(range(len(times) - 1)), itertools.pairwise(times), strict=True):
        x0, _ = denoise(x, t)
        if left == 0:
            return x0
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (alpha_sigma(log_snr(one), x) for one in (t, s))
        scale_t, scale_s = alpha_t + straight * sigma_t, alpha_s + straight * sigma_s
        length = sigma_s / scale_s - sigma_t / scale_t
        slope = to_epsilon(x0, x, alpha_t, sigma_t) - straight * x0
        euler = scale_s * (x / scale_t + length * slope)
        ahead, _ = denoise(euler, s)
        slope = (slope + to_epsilon(ahead, euler, alpha_s, sigma_s) - straight * ahead) / 2
        x = scale_s * (x / scale_t + length * slope)
    raise ValueError(f"sampling needs two times or more, got {len(times)}")


class _Extrapolation:
    """x̂0 in the middle of a step, extrapolated from the last two: D of DPM-Solver++(2M)."""

    def __init__(self) -> None:
        self.last: tuple[torch.Tensor, torch.Tensor] | None = None  # x̂0 and h of the step before

    def __call__(self, x0: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Return D of a step of length h; the first one is x̂0 itself."""
        last, self.last = self.last, (x0, h)
        if last is None:
            return x0
        ratio = torch.where(last[1] > 0, h / (2 * last[1]), 0.0).to(x0.dtype)  # 1/2r; 0 where the schedule was flat
        return x0 + ratio * (x0 - last[0])


def run_steps(step: Step, denoise: Denoise, x: torch.Tensor, times: torch.Tensor, log_snr: LogSNR) -> torch.Tensor:
    """Apply x_s = step(x_t, x̂0, share, λ_t, λ_s) along the times, and return x̂0 of the last step.

    Raises:
        ValueError: There are fewer than two times.
    """
    for left, (t, s) in zip(reversed(range(len(times) - 1)), itertools.pairwise(times), strict=True):
        x0, share = denoise(x, t)
        if left == 0:  # here s = 0; reading s instead would wait for the device
            return x0
        x = step(x, x0, share, log_snr(t), log_snr(s))
    raise ValueError(f"sampling needs two times or more, got {len(times)}")
