"""Loss weightings w(λ), all stated on the squared error of x0, whatever the target. λ and weights are float64, of one shape.

‖ε − ε̂‖² = SNR ‖x0 − x̂0‖² and ‖v − v̂‖² = (SNR + 1) ‖x0 − x̂0‖² (Salimans & Ho, 2022, Sec. 4), so each is a weight on the
target's own error, too. Several are one curve: snr is ε's own error, snr+1 is v's and edm with sigma_data 1; p2 and
soft-min-snr with gamma 1 and sigmoid with bias 0 are SNR/(SNR + 1).
"""

import torch

from diffseg.config import Diffusion
from diffseg.diffusion import profile
from diffseg.diffusion.schedules import log_snr, slope


def uniform(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """1."""
    return torch.ones_like(level)


def snr(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """SNR = e^λ (Ho et al., 2020, Eq. 14, in x0)."""
    return level.exp()


def snr_plus_one(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """SNR + 1 (Salimans & Ho, 2022, Sec. 4)."""
    return level.exp().add(1)


def truncated_snr(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """max(SNR, 1) (Salimans & Ho, 2022, Sec. 4)."""
    return level.exp().clamp(min=1)


def min_snr(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """min(SNR, γ) (Hang et al., 2023)."""
    return level.exp().clamp(max=diffusion.published("gamma"))


def soft_min_snr(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """γ SNR/(SNR + γ) (Crowson et al., 2024)."""
    return 1 / ((-level).exp() + 1 / diffusion.published("gamma"))


def p2(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """SNR/(1 + SNR)^γ (Choi et al., 2022: with k = 1, 1/(1 + SNR)^γ on ε's error)."""
    return level.exp() / (1 + level.exp()) ** diffusion.published("gamma")


def sigmoid(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """sigmoid(λ − bias), as AmbDiffSeg has it (Christensen et al., 2025): a positive bias favours less noise.

    Decoupled it is, up to the factor e^bias, sigmoid(bias − λ) on ε's error (Kingma & Gao, 2023; Hoogeboom et al., 2024). Later
    code of Christensen's writes sigmoid(λ + bias): there the sign of the bias is the other one.
    """
    return torch.sigmoid(level - diffusion.bias)


def edm(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """(σ² + σ_data²)/(σ σ_data)² with the unscaled σ² = 1/SNR (Karras et al., 2022, Table 1)."""
    return level.exp() + diffusion.sigma_data**-2


def debiased(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """√SNR (Yu et al., 2023: 1/√SNR on ε's error)."""
    return (level / 2).exp()


WEIGHTINGS = {
    "uniform": uniform,
    "snr": snr,
    "snr+1": snr_plus_one,
    "truncated-snr": truncated_snr,
    "min-snr": min_snr,
    "soft-min-snr": soft_min_snr,
    "p2": p2,
    "sigmoid": sigmoid,
    "edm": edm,
    "debiased": debiased,
    "profile": profile.weight,
}
OWN = {"epsilon": snr, "x0": uniform, "v": snr_plus_one}  # the target's squared error, in that of x0


def on_target(level: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """The weighting, one of WEIGHTINGS, on the target's own error."""
    return WEIGHTINGS[diffusion.weighting](level, diffusion) / OWN[diffusion.target](level, diffusion)


def target_weight(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor | None:
    """The factor of the target's own error at t, float64; None if it is 1.

    decoupled: times −dλ/dt, which turns the mean over t into the integral over λ (Kingma & Gao, 2023).
    """
    found = on_target(log_snr(t, diffusion), diffusion) if diffusion.weighting in WEIGHTINGS else None
    if diffusion.decoupled:
        found = slope(t, diffusion) * (1 if found is None else found)
    return found
