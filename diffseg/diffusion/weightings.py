"""Loss weightings w(λ), all defined on the squared error of x0, whatever the target.

All have one signature, `weighting(level, diffusion) -> weight`, with log-SNRs and weights float64 and of one shape.
‖ε − ε̂‖² = SNR ‖x0 − x̂0‖² and ‖v − v̂‖² = (SNR + 1) ‖x0 − x̂0‖² (Salimans & Ho, 2022, Sec. 4), so each weighting also is one
of the target's own error. Some coincide: snr is the error of ε itself; snr+1 is the error of v itself, and edm with
sigma_data 1; p2 and soft-min-snr with gamma 1 and sigmoid with bias 0 are SNR/(SNR + 1).
"""

from collections.abc import Callable

import torch

from diffseg.config import Diffusion
from diffseg.diffusion import profile
from diffseg.diffusion.registry import register
from diffseg.diffusion.schedules import log_snr, slope

Weighting = Callable[[torch.Tensor, Diffusion], torch.Tensor]
WEIGHTINGS: dict[str, Weighting] = {}


@register(WEIGHTINGS, "uniform")
def uniform(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return 1."""
    return torch.ones_like(level)


@register(WEIGHTINGS, "snr")
def snr(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return SNR = e^λ (Ho et al., 2020, Eq. 14, in x0)."""
    return level.exp()


@register(WEIGHTINGS, "snr+1")
def snr_plus_one(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return SNR + 1 (Salimans & Ho, 2022, Sec. 4)."""
    return level.exp().add(1)


@register(WEIGHTINGS, "truncated-snr")
def truncated_snr(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return max(SNR, 1) (Salimans & Ho, 2022, Sec. 4)."""
    return level.exp().clamp(min=1)


@register(WEIGHTINGS, "min-snr")
def min_snr(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return min(SNR, γ) (Hang et al., 2023)."""
    return level.exp().clamp(max=diffusion.published("gamma"))


@register(WEIGHTINGS, "soft-min-snr")
def soft_min_snr(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return γ SNR/(SNR + γ) (Crowson et al., 2024)."""
    return 1 / ((-level).exp() + 1 / diffusion.published("gamma"))


@register(WEIGHTINGS, "p2")
def p2(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return SNR/(1 + SNR)^γ (Choi et al., 2022: with k = 1, 1/(1 + SNR)^γ on ε's error)."""
    return level.exp() / (1 + level.exp()) ** diffusion.published("gamma")


@register(WEIGHTINGS, "sigmoid")
def sigmoid(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return the logistic function of λ − bias, as in AmbDiffSeg (Christensen et al., 2025): a positive bias favours less noise.

    Decoupled, it is sigmoid(bias − λ) on ε's error, up to the factor e^bias (Kingma & Gao, 2023; Hoogeboom et al., 2024).
    Christensen's later code writes sigmoid(λ + bias), where the bias has the opposite sign.
    """
    return torch.sigmoid(level - diffusion.bias)


@register(WEIGHTINGS, "edm")
def edm(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return (σ² + σ_data²)/(σ σ_data)² with the unscaled σ² = 1/SNR (Karras et al., 2022, Table 1)."""
    return level.exp() + diffusion.sigma_data**-2


@register(WEIGHTINGS, "debiased")
def debiased(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return √SNR (Yu et al., 2023: 1/√SNR on ε's error)."""
    return (level / 2).exp()


WEIGHTINGS["profile"] = profile.weight
# The squared error of a target, as a multiple of the squared error of x0.
TARGET_ERROR_IN_X0: dict[str, Weighting] = {
    "epsilon": snr,
    "x0": uniform,
    "v": snr_plus_one,
    "flow": lambda level, diffusion: (1 + (level / 2).exp()).square(),  # 1/s²
    "edm": edm,
    "x0-epsilon": lambda level, diffusion: torch.where(level >= diffusion.switch, level.exp(), 1.0),
}


def weight_on_target(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return the configured weighting, one of WEIGHTINGS, as a factor of the target's own error."""
    return WEIGHTINGS[diffusion.weighting](level, diffusion) / TARGET_ERROR_IN_X0[diffusion.target](level, diffusion)


def target_weight(t: torch.Tensor, diffusion: Diffusion, online: torch.Tensor | None = None) -> torch.Tensor | None:
    """Return the factor of the target's own error at t, float64; None if it is 1.

    With diffusion.decoupled it includes −dλ/dt, which turns the mean over t into the integral over λ (Kingma & Gao, 2023).
    online: the weight of x0's error at t with weighting "online".
    """
    found = None
    if diffusion.weighting == "online":
        assert online is not None
        found = online / TARGET_ERROR_IN_X0[diffusion.target](log_snr(t, diffusion), diffusion)
    elif diffusion.weighting in WEIGHTINGS:
        found = weight_on_target(log_snr(t, diffusion), diffusion)
    if diffusion.decoupled:
        found = slope(t, diffusion) * (1 if found is None else found)
    return found
