"""The four experiments: what each noises, conditions on, predicts and minimises (Öttl et al., 2024, Sec. 3).

| | input | conditioned on | predicts | loss |
|---|---|---|---|---|
| e1 feed-forward segmentation | noise in place of x_t | image | mask logits | Dice + cross-entropy |
| e2 diffusion segmentation | noisy mask x_t | image | ε or x0 | mean squared error |
| e3 mask prediction | noisy mask x_t | nothing | x0 (Eq. 2) | mean squared error |
| e4 image generation | noisy image x_t | nothing | ε (Eq. 1) | mean squared error |
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.config import Config
from diffseg.diffusion.densities import DENSITIES
from diffseg.diffusion.samplers import SAMPLERS
from diffseg.diffusion.schedules import alpha_sigma, log_snr
from diffseg.diffusion.targets import RANGES, activated, coded, decoded, noised, target, to_x0
from diffseg.networks import build

IMAGE_CHANNELS = 3
MASK_CHANNELS = 1


def build_network(config: Config) -> nn.Module:
    """The configured network with the channels that its experiment needs."""
    channels = IMAGE_CHANNELS if config.experiment == "e4" else MASK_CHANNELS
    image_channels = IMAGE_CHANNELS if config.experiment in ("e1", "e2") else 0
    return build(config.network, channels, image_channels, out_channels=channels)


def task(config: Config) -> "FeedForward | Denoising":
    """The experiment of a configuration."""
    return FeedForward(config) if config.experiment == "e1" else Denoising(config)


@dataclass(frozen=True)
class FeedForward:
    """E1: the mask from the image, with noise where the diffusion network expects the noisy mask."""

    config: Config
    segments = True
    denoises = False

    @cached_property
    def _criterion(self) -> nn.Module:
        from monai.losses import DiceCELoss  # several seconds of imports, which only E1 needs

        return DiceCELoss(sigmoid=True)

    def loss(self, network: Callable, images: torch.Tensor, masks: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        """Dice plus cross-entropy, equally weighted, of images [B, C, H, W] and masks [B, 1, H, W]."""
        noise = torch.randn(masks.shape, generator=draw, device=masks.device)
        return self._criterion(self._logits(network, noise, images), masks)

    def predict(self, network: Callable, images: torch.Tensor, noise: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """Foreground probability [B, 1, H, W]."""
        return self._logits(network, noise(0), images).sigmoid()

    def _logits(self, network, noise, images):
        last = torch.full((len(images),), self.config.diffusion.steps - 1.0, device=images.device)
        return network(noise, last, images).float()


@dataclass(frozen=True)
class Denoising:
    """E2, E3 and E4: a clean signal (mask or image) is noised, and the network learns to tell which it was."""

    config: Config
    denoises = True

    @property
    def segments(self) -> bool:
        return self.config.experiment == "e2"

    def loss(self, network: Callable, images: torch.Tensor, masks: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        """Mean squared error of the target at random noise levels, of images [B, C, H, W] and masks [B, 1, H, W]."""
        t = DENSITIES[self.config.diffusion.density](len(images), draw)
        return self._error(network, images, masks, t, draw)[0].mean()

    def errors(
        self, network: Callable, images: torch.Tensor, masks: torch.Tensor, t: torch.Tensor, draw: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(mask error, loss), each [B], at noise levels t [B].

        The mask error is the mean squared error of x̂0, clipped to the coding's range as in sampling, in units of masks
        in ±1 whatever the coding; NaN for E4.
        """
        loss, prediction, signal, x_t, scales = self._error(network, images, masks, t, draw)
        if self.config.experiment == "e4":
            return torch.full_like(loss, torch.nan), loss
        low, high = RANGES[self.config.diffusion.coding]
        x0 = to_x0(prediction, x_t, *scales, self.config.diffusion).clamp(low, high)
        return ((x0 - signal) * 2 / (high - low)).square().flatten(1).mean(1), loss

    def predict(self, network: Callable, images: torch.Tensor, noise: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """Foreground probability [B, 1, H, W] of one sampled mask an image (E2). noise(k) is the k-th N(0, I) draw."""
        diffusion, inference = self.config.diffusion, self.config.inference
        low, high = RANGES[diffusion.coding]

        def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            output = self._output(network, x_t, t.expand(len(x_t)), images)
            scales = alpha_sigma(log_snr(t, diffusion), x_t)
            return to_x0(output, x_t, *scales, diffusion).clamp(low, high)

        draws = iter(range(1, inference.steps + 1))
        x0 = SAMPLERS[inference.sampler](
            denoise,
            noise(0),
            inference.steps,
            lambda t: log_snr(t, diffusion),
            lambda: noise(next(draws)),
            inference.variance,
        )
        return decoded(x0, diffusion.coding)

    def _error(self, network, images, masks, t, draw):
        diffusion = self.config.diffusion
        signal = images if self.config.experiment == "e4" else coded(masks, diffusion.coding)
        noise = torch.randn(signal.shape, generator=draw, device=signal.device)
        scales = alpha_sigma(log_snr(t, diffusion), signal)
        x_t = noised(signal, noise, *scales)
        prediction = self._output(network, x_t, t, images)
        loss = F.mse_loss(prediction, target(signal, noise, diffusion), reduction="none").flatten(1).mean(1)
        return loss, prediction, signal, x_t, scales

    def _output(self, network, x_t, t, images):
        steps = (t * self.config.diffusion.steps - 1).to(x_t.dtype)  # the published chain counts from 0 at t = 1/T
        condition = images if self.config.experiment == "e2" else None
        return activated(network(x_t, steps, condition).float(), self.config.diffusion)
