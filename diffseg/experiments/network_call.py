"""Calls of a network: the time that it is given, and its outputs in float32."""

import torch
from torch import nn

from diffseg.config import Config
from diffseg.labels.labels import Masks

Features = tuple[torch.Tensor, ...]  # what depends on the image alone, each [B, …]


def network_time(t: torch.Tensor, config: Config) -> torch.Tensor:
    """Return the time that the network is given: t, or the published chains' step, which is 0 at t = 1/T."""
    return t * config.diffusion.steps - 1 if config.diffusion.time == "steps" else t


def call_network(
    network: nn.Module,
    config: Config,
    x_t: torch.Tensor,
    t: torch.Tensor,
    image: torch.Tensor | None,
    features: Features = (),
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return (output, the network's extra output or None), both float32.

    Args:
        network: The network, compiled or not.
        config: The trial's configuration.
        x_t: The noisy signal, [B, C, H, W].
        t: The network's time, [B].
        image: The conditioning image, [B, C, H, W]; None for experiments without one.
        features: The image's features if they are known; empty to let the network compute them.
    """
    options = {"features": features} if features else {}
    output: torch.Tensor
    if image is None or not config.network.implementation().extra_output:
        output = network(x_t, t, image, **options)
        return output.float(), None
    extra: torch.Tensor
    output, extra = network(x_t, t, image, **options, extra=True)
    return output.float(), extra.float()


def extra_loss(extra: torch.Tensor | None, masks: Masks, config: Config) -> torch.Tensor | float:
    """Return the loss of the network's extra output; 0 if there is none."""
    return 0.0 if extra is None else config.network.implementation().extra_loss(extra, masks)
