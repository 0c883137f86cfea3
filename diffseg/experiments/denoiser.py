"""Denoising of one batch: the clean signal, its noisy form, and what a network predicts of it."""

from dataclasses import dataclass

import torch
from torch import nn

from diffseg.config import Config
from diffseg.diffusion.schedules import alpha_sigma, log_snr
from diffseg.diffusion.targets import activate, add_noise, to_x0, training_target
from diffseg.experiments.network_call import Features, call_network, network_time
from diffseg.labels.codings import RANGES
from diffseg.labels.labels import Labels, Masks

Scales = tuple[torch.Tensor, torch.Tensor]  # (α, σ), which broadcast against [B, C, H, W]


@dataclass(frozen=True)
class Denoised:
    """A network's prediction of a noisy signal, tensors [B, C, H, W]."""

    logits: torch.Tensor  # the output before the activation
    output: torch.Tensor  # the prediction of the target
    x0: torch.Tensor  # the prediction of the signal, not clipped
    share: torch.Tensor | float  # of the large variance in the log variance of an ancestral step
    extra: torch.Tensor | None  # the network's extra output


def clean_signal(images: torch.Tensor, masks: Masks, config: Config) -> torch.Tensor:
    """Return the signal that is noised: the images in E4, else the encoded masks."""
    return images if config.experiment == "e4" else Labels.of(config).coding.encode(masks.channels, masks.valid)


def denoise_batch(
    network: nn.Module,
    config: Config,
    images: torch.Tensor,
    signal: torch.Tensor,
    t: torch.Tensor,
    noise: torch.Tensor,
    guided: bool,
) -> tuple[Denoised, torch.Tensor]:
    """Add noise [B, C, H, W] to a signal [B, C, H, W] at times t [B], and let the network denoise it.

    guided: the network is given its own estimate of x0, made by a first evaluation that gets no gradient.

    Returns:
        (the network's prediction, the target that it is trained to output)
    """
    scales = alpha_sigma(log_snr(t, config.diffusion), signal)
    x_t = add_noise(signal, noise, *scales)
    estimate = None
    if guided:
        with torch.no_grad():
            estimate = denoise(network, config, x_t, t, scales, images).x0
    prediction = denoise(network, config, x_t, t, scales, images, estimate)
    return prediction, training_target(signal, noise, *scales, config.diffusion)


def denoise(
    network: nn.Module,
    config: Config,
    x_t: torch.Tensor,
    t: torch.Tensor,
    scales: Scales,
    images: torch.Tensor,
    estimate: torch.Tensor | None = None,
    features: Features = (),
) -> Denoised:
    """Let the network denoise x_t [B, C, H, W] at times t [B].

    Args:
        network: The network, compiled or not.
        config: The trial's configuration.
        x_t: The noisy signal.
        t: Times in [0, 1].
        scales: (α, σ) at t.
        images: [B, C, H, W]. Only E2 is conditioned on them.
        estimate: The estimate of x0 for self-conditioning; None for zeros.
        features: The images' features if they are known.
    """
    diffusion = config.diffusion
    condition = images if config.experiment == "e2" else None
    inputs = _append_estimate(x_t, estimate, diffusion.coding) if diffusion.self_conditioning else x_t
    times = network_time(t, config).to(x_t.dtype)
    logits, extra = call_network(network, config, inputs, times, condition, features)
    share: torch.Tensor | float
    if diffusion.variance == "learned":
        logits, second = logits.chunk(2, dim=1)
        share = (second + 1) / 2
    else:
        share = {"small": 0.0, "large": 1.0}[diffusion.variance]
    output = activate(logits, diffusion, Labels.of(config))
    return Denoised(logits, output, to_x0(output, x_t, *scales, diffusion), share, extra)


def _append_estimate(x_t: torch.Tensor, estimate: torch.Tensor | None, coding: str) -> torch.Tensor:
    """Return x_t and the estimate of x0, clipped to the coding's range, or zeros without one, [B, 2C, H, W]."""
    if estimate is None:
        return torch.cat([x_t, torch.zeros_like(x_t)], dim=1)
    return torch.cat([x_t, estimate.clamp(*RANGES[coding])], dim=1)
