"""Prediction targets, ε, x0 or v = α ε − σ x0, and conversions between them (Salimans & Ho, 2022, Sec. 4, App. D).

All tensors are [B, C, H, W]. α and σ broadcast against them; α² + σ² = 1 and x_t = α x0 + σ ε.
"""

import torch

from diffseg.config import Diffusion
from diffseg.labels.codings import RANGES
from diffseg.labels.labels import Labels


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


def activate(output: torch.Tensor, diffusion: Diffusion, labels: Labels) -> torch.Tensor:
    """Apply the configured activation to an x0 output: tanh and sigmoid, mapped onto the range of the mask coding.

    With sigmoid, the output is the logit of a probability; where exclusive classes have a channel each, sigmoid gives way to
    softmax over them.
    """
    if diffusion.activation == "identity" or diffusion.target != "x0":
        return output
    low, high = RANGES[diffusion.coding]
    if diffusion.activation == "sigmoid":
        return low + (high - low) * (output.softmax(1) if labels.compete else output.sigmoid())
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
