"""Denoising of one batch: the clean signal, its noisy form, and what a network predicts of it."""

from dataclasses import dataclass

import torch
from torch import nn

from diffseg.config import Config
from diffseg.diffusion.schedules import alpha_sigma, log_snr
from diffseg.diffusion.targets import activate, add_noise, scale_input, to_epsilon, to_x0, training_target
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


@dataclass(frozen=True)
class OwnEstimate:
    """How a training step is given the network's own estimate of x0, made by evaluations that get no gradient."""

    guided: bool = False  # the network is given the estimate, beside x_t (self-conditioning)
    recycled: bool = False  # the estimate is noised in place of the signal
    earlier: torch.Tensor | None = None  # [B], the noisier times that the estimate is made at; None: the step's own


NO_ESTIMATE = OwnEstimate()


def denoise_batch(
    network: nn.Module,
    config: Config,
    images: torch.Tensor,
    signal: torch.Tensor,
    t: torch.Tensor,
    noise: torch.Tensor,
    own: OwnEstimate = NO_ESTIMATE,
    perturbation: torch.Tensor | None = None,
) -> tuple[Denoised, torch.Tensor]:
    """Add noise [B, C, H, W] to a signal [B, C, H, W] at times t [B], and let the network denoise it.

    Args:
        network: The network, compiled or not.
        config: The trial's configuration.
        images: [B, C, H, W].
        signal: The clean signal.
        t: Times in [0, 1].
        noise: N(0, 1).
        own: How the network is given its own estimate.
        perturbation: Noise [B, C, H, W] that is added to x_t's own, unknown to the target (Ning et al., 2023).

    Returns:
        (the network's prediction, the target that it is trained to output)
    """
    diffusion = config.diffusion
    scales = alpha_sigma(log_snr(t, diffusion), signal)
    seen = noise if perturbation is None else noise + perturbation
    x_t, estimate = add_noise(signal, seen, *scales), None

    def estimate_at(x: torch.Tensor, t: torch.Tensor, scales: Scales) -> torch.Tensor:
        with torch.no_grad():
            return denoise(network, config, x, t, scales, images).x0

    if own.recycled or (own.guided and own.earlier is not None):
        assert own.earlier is not None
        before = alpha_sigma(log_snr(own.earlier, diffusion), signal)
        estimate = estimate_at(add_noise(signal, seen, *before), own.earlier, before)
    if own.recycled and estimate is not None:
        x_t = add_noise(estimate.clamp(*RANGES[diffusion.coding]), seen, *scales)
        noise = to_epsilon(signal, x_t, *scales)  # that leads from x_t to the true signal
    if own.guided and (estimate is None or diffusion.estimate == "same-level"):
        estimate = estimate_at(x_t, t, scales)
    prediction = denoise(network, config, x_t, t, scales, images, estimate if own.guided else None)
    return prediction, training_target(signal, noise, *scales, diffusion)


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
    inputs = scale_input(x_t, *scales, diffusion)
    if diffusion.self_conditioning:
        inputs = _append_estimate(inputs, estimate, diffusion.coding)
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
