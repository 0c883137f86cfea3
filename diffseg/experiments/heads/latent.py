"""The latent variable of the probabilistic U-Net (Kohl et al., 2018), over any network of E1."""

import math
from typing import cast

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from diffseg.diffusion.losses import class_cross_entropy
from diffseg.experiments.heads.protocol import Head
from diffseg.experiments.protocol import NoiseDraws
from diffseg.labels.labels import Masks

CONVOLUTIONS = 3  # of a level, as published
WIDEST = 6  # the widest level, as a multiple of the first
LAST_SIDE = 2  # of the last level, px


class Encoder(nn.Module):
    """Levels of three convolutions each, halved in between, whose mean over the last level gives a normal distribution."""

    def __init__(self, channels: int, width: int, dimensions: int, size: int):
        super().__init__()
        levels = max(1, round(math.log2(size / LAST_SIDE)) + 1)
        parts: list[nn.Module] = []
        for level in range(levels):
            parts += [nn.AvgPool2d(2, ceil_mode=True)] if level else []
            wide = width * min(2**level, WIDEST)
            for _ in range(CONVOLUTIONS):
                parts += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU()]
                channels = wide
        self.body, self.last = nn.Sequential(*parts), nn.Linear(channels, 2 * dimensions)
        _initialise(self.body)

    def forward(self, x: torch.Tensor) -> Normal:
        """Return the distribution of the latent variable, [B, dimensions], of maps x [B, channels, H, W]."""
        mean, log_deviation = self.last(self.body(x).mean((2, 3))).float().chunk(2, dim=1)
        return Normal(mean, log_deviation.exp(), validate_args=False)  # which waits for the device


class LatentVariable(nn.Module):
    """The prior given the image, the posterior given image and mask, and how the latent variable changes the output."""

    def __init__(self, image_channels: int, channels: int, features: int, width: int, dimensions: int, size: int):
        super().__init__()
        self.prior = Encoder(image_channels, width, dimensions, size)
        self.posterior = Encoder(image_channels + channels, width, dimensions, size)
        self.combine = nn.Sequential(
            nn.Conv2d(features + dimensions, features, 1),
            nn.ReLU(),
            nn.Conv2d(features, features, 1),
            nn.ReLU(),
            nn.Conv2d(features, channels, 1),
        )
        _initialise(self.combine[:-1])

    def forward(self, features: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 [B, channels, H, W], of maps [B, features, H, W] and a latent variable [B, dimensions]."""
        everywhere = z[:, :, None, None].expand(-1, -1, *features.shape[2:])
        found: torch.Tensor = self.combine(torch.cat([features, everywhere], dim=1))
        return found.float()


class Latent(Head):
    """The network puts out features, which three pointwise convolutions combine with z of the image.

    The loss is the cross-entropy with z of the posterior, summed over the pixels, plus `head.beta` times the divergence
    KL(posterior ‖ prior), divided by the number of pixels.
    """

    @property
    def outputs(self) -> int:
        """The features."""
        return self.config.head.features

    def build(self) -> LatentVariable:
        """Return the encoders and the combination, with fresh weights."""
        own = self.config.head
        sizes = own.features, own.width, own.dimensions, self.config.data.size
        return LatentVariable(self.config.data.channels, self.labels.channels, *sizes)

    def loss(
        self,
        network: nn.Module,
        output: torch.Tensor,
        images: torch.Tensor,
        truth: Masks,
        draw: torch.Generator,
        part: slice,
        count: int,
    ) -> torch.Tensor:
        """Return the negative evidence lower bound by pixel, as `Head.loss`."""
        latent = cast(LatentVariable, network.latent)
        prior, posterior = latent.prior(images), latent.posterior(torch.cat([images, truth.channels - 0.5], dim=1))
        noise = torch.randn(count, self.config.head.dimensions, generator=draw, device=output.device)[part]
        logits = latent(output, posterior.mean + posterior.stddev * noise)
        entropy = truth.sum(class_cross_entropy(logits, truth, self.labels))
        divergence: torch.Tensor = kl_divergence(posterior, prior).sum(1)
        return (entropy + self.config.head.beta * divergence).mean() / output[0, 0].numel()

    def sample(
        self, network: nn.Module, output: torch.Tensor, images: torch.Tensor, which: torch.Tensor, noise: NoiseDraws
    ) -> torch.Tensor:
        """Return logits with z drawn from the prior, as `Head.sample`: tiles of an image share the draw."""
        latent = cast(LatentVariable, network.latent)
        prior = latent.prior(images)
        z = prior.mean[which] + prior.stddev[which] * noise.vectors(0, self.config.head.dimensions)
        logits: torch.Tensor = latent(output[which], z)
        return logits


def _initialise(module: nn.Module) -> None:
    """Draw weights for rectified units (He et al., 2015), without which deep stacks of them pass on nothing."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.zeros_(cast(torch.Tensor, part.bias))
