"""Noise schedules: the log-SNR λ(t), t in [0, 1]. Computed in float64, which ᾱ near 1 needs.

Every schedule is `schedule(t, diffusion) -> λ`. It falls in t, and may be infinite at t = 0 and t = 1. `log_snr` adds the
input scaling and bounds the ends. Laplace, Cauchy and the log-normal ones are quantile functions: uniform t gives λ that
distribution.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import torch

from diffseg.config import Diffusion
from diffseg.diffusion.registry import register

CLEAN = 20.0  # the largest λ: σ² = 2e-9, so that x_t is x0 in float32
INSIDE = 1e-9  # distance from t = 0 and t = 1 at which slopes, infinite there in some schedules, are taken

Schedule = Callable[[torch.Tensor, Diffusion], torch.Tensor]
SCHEDULES: dict[str, Schedule] = {}
Value = TypeVar("Value", float, torch.Tensor)


@register(SCHEDULES, "linear")
def linear(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return λ of the linear β schedule, β from 0.1/T to 20/T (Ho et al., 2020, Sec. 4).

    It is exact at the T published points t = i/T: β is linear in i, so ᾱ_i = Π (1 − β_s) = d^i Γ(c) / Γ(c − i) with d the
    increment of β and c = (1 − β_1)/d + 1, an analytic function that also holds between the points.
    """
    steps = diffusion.steps
    first, last = 0.1 / steps, 20 / steps
    increment = (last - first) / (steps - 1)
    c = torch.full((), (1 - first) / increment + 1, dtype=torch.float64, device=t.device)
    i = t.double() * steps
    log_alpha_bar = i * math.log(increment) + torch.lgamma(c) - torch.lgamma(c - i)
    return -torch.log(torch.expm1(-log_alpha_bar.clamp(max=-math.exp(-CLEAN))))


@register(SCHEDULES, "linear-continuous")
def linear_continuous(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return λ = −ln(e^(1e-4 + 10 t²) − 1), the linear β schedule in continuous time.

    (Kingma et al., 2021; Christensen et al., 2025)
    """
    return -torch.log(torch.expm1(1e-4 + 10 * t.double().square()))


@register(SCHEDULES, "cosine")
def cosine(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return λ = −2 ln tan(πt/2), that is ᾱ = cos²(πt/2) (Nichol & Dhariwal, 2021, Eq. 17 with s = 0)."""
    return -2 * torch.log(torch.tan(t.double() * math.pi / 2))


@register(SCHEDULES, "shifted-cosine")
def shifted_cosine(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return λ of the cosine plus 2 ln(noise_d/image_d), the cosine of smaller images (Hoogeboom et al., 2023)."""
    return cosine(t, diffusion) + 2 * math.log(diffusion.shift)


@register(SCHEDULES, "sigmoid")
def sigmoid(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return λ where ᾱ falls as the logistic function of −x/τ, x from −3 to 3, stretched to [0, 1].

    (Jabri et al., 2023; Chen, 2023)

    Some libraries use the name for a sigmoid in β, which is another schedule.
    """
    end = 3 / diffusion.temperature
    x, least = (2 * t.double() - 1) * end, 1 / (1 + math.exp(end))
    return torch.log((torch.sigmoid(-x) - least).clamp(min=0)) - torch.log((torch.sigmoid(x) - least).clamp(min=0))


@register(SCHEDULES, "simple-linear")
def simple_linear(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return λ where ᾱ = 1 − t (Chen, 2023)."""
    return -torch.logit(t.double())


@register(SCHEDULES, "laplace")
def laplace(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return λ = μ − b sgn(½ − t) ln(1 − 2|½ − t|), Laplace-distributed (Hang & Gu, 2024)."""
    t = t.double()
    log_odds = torch.log(torch.minimum(2 * t, torch.ones_like(t))) - torch.log(
        torch.minimum(2 - 2 * t, torch.ones_like(t))
    )
    return diffusion.published("location") - diffusion.published("spread") * log_odds


@register(SCHEDULES, "cauchy")
def cauchy(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return λ = μ + γ tan(π(½ − t)), Cauchy-distributed (Hang & Gu, 2024)."""
    return diffusion.published("location") + diffusion.published("spread") * torch.tan(math.pi * (0.5 - t.double()))


@register(SCHEDULES, "edm", "logit-normal")
def log_normal(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return λ where ln(σ/α) = −λ/2 ~ N(location, spread²).

    "edm": with the noise of the unscaled x0 + σ n this is EDM's ln σ (Karras et al., 2022, Table 1: −1.2, 1.2).
    "logit-normal": with x_s = (1 − s) x0 + s ε, σ/α is s/(1 − s), and s is the logit-normal of rectified flows (Esser et al.,
    2024: 0, 1).
    """
    quantiles: torch.Tensor = torch.special.ndtri(t.double())
    return -2 * (diffusion.published("location") + diffusion.published("spread") * quantiles)


@register(SCHEDULES, "flow")
def flow(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return λ = 2 ln((1 − t)/t), the straight path (1 − t) x0 + t ε of flow matching (Lipman et al., 2023; Liu et al., 2023)."""
    return -2 * torch.logit(t.double())


def log_snr(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return λ(t) of the configured schedule, float64, of t's shape, between log_snr_min and log_snr_max.

    Input scaling b shifts λ by 2 ln b (Chen, 2023; Christensen et al., 2025). Then diffusion.ends decides:

    limited        an end beyond its limit is moved to it by an affine map of α²; other ends stay
    exact          both ends are moved to their limits by an affine map of α², as in Christensen et al.'s code
    zero-terminal  limited, then an affine map of α moves t = 1 to its limit and keeps t = 0 (Lin et al., 2024, Alg. 1,
                   where α is 0 at t = 1; here log_snr_min says how near to it)
    """
    level = _bounded(_unbounded(t, diffusion), diffusion)
    return _zero_terminal(level, diffusion) if diffusion.ends == "zero-terminal" else level


def slope(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return −dλ/dt, float64, of t's shape: the inverse of the density of λ under uniform t."""
    with torch.inference_mode(False), torch.enable_grad():
        t = t.double().clamp(INSIDE, 1 - INSIDE).detach().clone().requires_grad_()
        (derivative,) = torch.autograd.grad(log_snr(t, diffusion).sum(), t)
    return -derivative


def alpha_sigma(level: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (α, σ) of log-SNRs [B] in the dtype of `like` [B, C, H, W], each [B, 1, 1, 1] to scale it with."""
    level = level.double().view(-1, *[1] * (like.dim() - 1))
    return torch.sigmoid(level).sqrt().to(like.dtype), torch.sigmoid(-level).sqrt().to(like.dtype)


def _unbounded(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return λ(t) of the scaled input, before the ends are bounded."""
    return SCHEDULES[diffusion.schedule](t, diffusion) + 2 * math.log(diffusion.input_scale)


def _bounded(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Map α² and σ² affinely so that the ends obey `limited` or `exact`."""
    first, last = _ends(diffusion)
    least_sigma2, least_alpha2 = _sigmoid(-diffusion.log_snr_max), _sigmoid(diffusion.log_snr_min)
    sigma2_first, alpha2_last = least_sigma2, least_alpha2
    if diffusion.ends != "exact":
        sigma2_first, alpha2_last = max(sigma2_first, _sigmoid(-first)), max(alpha2_last, _sigmoid(last))
    share = (1 - sigma2_first - alpha2_last) / (1 - _sigmoid(-first) - _sigmoid(last))
    alpha2 = alpha2_last + share * (torch.sigmoid(level) - _sigmoid(last))
    sigma2 = sigma2_first + share * (torch.sigmoid(-level) - _sigmoid(-first))
    # Rounding may have gone below the least values.
    return alpha2.clamp(min=least_alpha2).log() - sigma2.clamp(min=least_sigma2).log()


def _zero_terminal(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Map α affinely so that λ(1) is log_snr_min and λ(0) stays."""
    (alpha_first, short_first), (alpha_last, _) = (
        _alpha_and_shortfall(_sigmoid(end), _sigmoid(-end)) for end in _bounded_ends(diffusion)
    )
    least = math.sqrt(_sigmoid(diffusion.log_snr_min))
    share = (alpha_first - least) / (alpha_first - alpha_last)
    alpha, short = _alpha_and_shortfall(torch.sigmoid(level), torch.sigmoid(-level))
    alpha, short = least + share * (alpha - alpha_last), short_first + share * (short - short_first)
    return 2 * alpha.clamp(min=least).log() - (short * (2 - short)).log()


def _alpha_and_shortfall(alpha2: Value, sigma2: Value) -> tuple[Value, Value]:
    """Return α, and 1 − α without cancellation."""
    return alpha2**0.5, sigma2 / (1 + alpha2**0.5)


@lru_cache
def _ends(diffusion: Diffusion) -> tuple[float, float]:
    """Return λ at t = 0 and t = 1, before the ends are bounded."""
    first, last = _unbounded(torch.tensor([0.0, 1.0], dtype=torch.float64), diffusion).tolist()
    return first, last


@lru_cache
def _bounded_ends(diffusion: Diffusion) -> tuple[float, float]:
    """Return λ at t = 0 and t = 1, bounded as `limited`."""
    first, last = _bounded(torch.tensor(_ends(diffusion), dtype=torch.float64), diffusion).tolist()
    return first, last


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
