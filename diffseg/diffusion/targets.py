"""Prediction targets, ε, x0 or v = α ε − σ x0, and conversions between them (Salimans & Ho, 2022, Sec. 4, App. D).

All tensors are [B, C, H, W]. α and σ broadcast against them; α² + σ² = 1 and x_t = α x0 + σ ε.
"""

import torch

from diffseg.config import Diffusion

RANGES = {"pm1": (-1.0, 1.0), "01": (0.0, 1.0)}  # mask codings: (background, foreground)


def add_noise(x0: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return x_t, a draw from q(x_t | x0) (Ho et al., 2020, Eq. 4)."""
    return alpha * x0 + sigma * noise


def training_target(
    x0: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, diffusion: Diffusion
) -> torch.Tensor:
    """Return what the network is trained to output."""
    if diffusion.target == "v":
        return alpha * noise - sigma * x0
    return {"epsilon": noise, "x0": x0}[diffusion.target]


def activate(output: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Apply the configured activation to an x0 output: tanh and sigmoid, mapped onto the range of the mask coding.

    With sigmoid, the output is the logit of the foreground probability.
    """
    if diffusion.activation == "identity" or diffusion.target != "x0":
        return output
    low, high = RANGES[diffusion.coding]
    if diffusion.activation == "sigmoid":
        return low + (high - low) * output.sigmoid()
    return low + (high - low) * (output.tanh() + 1) / 2


def to_x0(
    prediction: torch.Tensor, x_t: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, diffusion: Diffusion
) -> torch.Tensor:
    """Return x̂0, given the activated prediction of the target."""
    if diffusion.target == "x0":
        return prediction
    if diffusion.target == "v":
        return alpha * x_t - sigma * prediction
    return (x_t - sigma * prediction) / alpha


def to_epsilon(x0: torch.Tensor, x_t: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return ε̂, given x̂0."""
    return (x_t - alpha * x0) / sigma


def encode(mask: torch.Tensor, coding: str) -> torch.Tensor:
    """Map a mask of 0 and 1 to float32 values of the coding."""
    low, high = RANGES[coding]
    return low + (high - low) * mask.float()


def decode(x0: torch.Tensor, coding: str) -> torch.Tensor:
    """Map x̂0 to the foreground probability in [0, 1]."""
    low, high = RANGES[coding]
    return ((x0 - low) / (high - low)).clamp(0, 1)
