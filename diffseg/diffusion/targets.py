"""What the network predicts, ε, x0 or v = α ε − σ x0, and how x0 and ε follow from it (Salimans & Ho, 2022, Sec. 4, App. D).

All tensors are [B, C, H, W]; α and σ broadcast against them, α² + σ² = 1, x_t = α x0 + σ ε.
"""

import torch

from diffseg.config import Diffusion

RANGES = {"pm1": (-1.0, 1.0), "01": (0.0, 1.0)}  # of the mask codings, (background, foreground)


def noised(x0: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """x_t, a draw from q(x_t | x0) (Ho et al., 2020, Eq. 4)."""
    return alpha * x0 + sigma * noise


def target(
    x0: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, diffusion: Diffusion
) -> torch.Tensor:
    """What the network is trained to output."""
    if diffusion.target == "v":
        return alpha * noise - sigma * x0
    return {"epsilon": noise, "x0": x0}[diffusion.target]


def activated(output: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """The output after its configured activation: tanh and sigmoid are mapped onto the range of the mask coding.

    With sigmoid, the output is the logit of the foreground's probability.
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
    """x̂0 from the (activated) prediction."""
    if diffusion.target == "x0":
        return prediction
    if diffusion.target == "v":
        return alpha * x_t - sigma * prediction
    return (x_t - sigma * prediction) / alpha


def to_epsilon(x0: torch.Tensor, x_t: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """ε̂ from x̂0."""
    return (x_t - alpha * x0) / sigma


def coded(mask: torch.Tensor, coding: str) -> torch.Tensor:
    """A {0, 1} mask as float32 in the coding's range."""
    low, high = RANGES[coding]
    return low + (high - low) * mask.float()


def decoded(x0: torch.Tensor, coding: str) -> torch.Tensor:
    """Foreground probability in [0, 1] of a predicted clean mask."""
    low, high = RANGES[coding]
    return ((x0 - low) / (high - low)).clamp(0, 1)
