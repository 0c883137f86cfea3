"""The toy network: three convolutions on the noisy mask, t and the image."""

import torch
from torch import nn

from diffseg.networks.protocol import Dimensions, Implementation
from toynet.settings import ToyNet


class ToyNetwork(nn.Module):
    """Convolutions at full resolution, with t as one more channel."""

    def __init__(self, settings: ToyNet, dimensions: Dimensions):
        super().__init__()
        in_channels = dimensions.channels + 1 + dimensions.image_channels
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, settings.width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(settings.width, settings.width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(settings.width, dimensions.out_channels, 3, padding=1),
        )

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """Return [B, out_channels, H, W] of x_t [B, channels, H, W], t [B] and image [B, image_channels, H, W] or None."""
        time = (t / 1000).to(x_t.dtype)[:, None, None, None].expand_as(x_t[:, :1])
        inputs = [x_t, time] if image is None else [x_t, time, image]
        return self.layers(torch.cat(inputs, dim=1))


class ToyNetImplementation(Implementation[ToyNet]):
    """The toy network, trained and used in the common way."""

    def build(self, dimensions: Dimensions) -> ToyNetwork:
        """Return the module with fresh weights."""
        return ToyNetwork(self.settings, dimensions)
