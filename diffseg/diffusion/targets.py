"""Prediction targets, such as ε, x0 or v = α ε − σ x0, and conversions between them (Salimans & Ho, 2022, Sec. 4, App. D).

All tensors are [B, C, H, W]. α and σ broadcast against them; α² + σ² = 1 and x_t = α x0 + σ ε.
"""

import math

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
    """Return what the network is trained to output.

    "flow" is the velocity of the straight path (1 − s) x0 + s ε by s (Lipman et al., 2023). "edm" is F of
    D = c_skip x̃ + c_out F at x̃ = x_t/α (Karras et al., 2022, Eq. 7). "x0-epsilon" is x0 at much noise and ε at little.
    """
    if diffusion.target == "v":
        return alpha * noise - sigma * x0
    if diffusion.target == "flow":
        return noise - x0
    if diffusion.target == "edm":
        skip, out = _precondition(alpha, sigma, diffusion)
        return (x0 - skip * (alpha * x0 + sigma * noise)) / out
    if diffusion.target == "x0-epsilon":
        return torch.where(_is_clean(alpha, sigma, diffusion), noise, x0)
    return {"epsilon": noise, "x0": x0}[diffusion.target]


def scale_input(x_t: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return the noisy signal as the network is given it: c_in x_t/α with the target edm, else x_t as it is."""
    if diffusion.target != "edm":
        return x_t
    return x_t / (sigma**2 + (alpha * diffusion.sigma_data) ** 2).sqrt()


def _precondition(alpha: torch.Tensor, sigma: torch.Tensor, diffusion: Diffusion) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (c_skip/α, c_out) of a variance-preserving x_t (Karras et al., 2022, Table 1, with their σ as σ/α)."""
    deviation = diffusion.sigma_data
    total = sigma**2 + (alpha * deviation) ** 2
    return deviation**2 * alpha / total, sigma * deviation / total.sqrt()


def _is_clean(alpha: torch.Tensor, sigma: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """Return whether the log-SNR is at or above the switch of the target x0-epsilon, of the shape of α."""
    return alpha >= sigma * math.exp(diffusion.switch / 2)


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
    if diffusion.target == "flow":
        return (x_t - sigma * prediction) / (alpha + sigma)
    if diffusion.target == "edm":
        skip, out = _precondition(alpha, sigma, diffusion)
        return skip * x_t + out * prediction
    x0 = epsilon_to_x0(prediction, x_t, alpha, sigma)
    return torch.where(_is_clean(alpha, sigma, diffusion), x0, prediction) if diffusion.target == "x0-epsilon" else x0


def to_epsilon(x0: torch.Tensor, x_t: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return ε̂, given x̂0."""
    return (x_t - alpha * x0) / sigma


def epsilon_to_x0(epsilon: torch.Tensor, x_t: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return x̂0, given ε̂."""
    return (x_t - sigma * epsilon) / alpha
