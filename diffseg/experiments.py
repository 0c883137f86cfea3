"""The four experiments: what each noises, conditions on, predicts and minimises (Öttl et al., 2024, Sec. 3).

| | input | conditioned on | predicts | loss |
|---|---|---|---|---|
| e1 feed-forward segmentation | noise in place of x_t | image | mask logits | Dice + cross-entropy |
| e2 diffusion segmentation | noisy mask x_t | image | ε or x0 | mean squared error |
| e3 mask prediction | noisy mask x_t | nothing | x0 (Eq. 2) | mean squared error |
| e4 image generation | noisy image x_t | nothing | ε (Eq. 1) | mean squared error |

MedSegDiff's second output, a mask from the image alone, adds its own loss in E1 and E2: nothing else trains that half.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.config import Config
from diffseg.diffusion.densities import DENSITIES, discrete
from diffseg.diffusion.samplers import SAMPLERS
from diffseg.diffusion.schedules import alpha_sigma, log_snr
from diffseg.diffusion.targets import RANGES, activated, coded, decoded, noised, target, to_x0
from diffseg.diffusion.variational import bound
from diffseg.networks import build

MASK_CHANNELS = 1


def build_network(config: Config) -> nn.Module:
    """The configured network with the channels that its experiment needs."""
    channels = config.data.channels if config.experiment == "e4" else MASK_CHANNELS
    image_channels = config.data.channels if config.experiment in ("e1", "e2") else 0
    outputs = 2 if config.diffusion.variance == "learned" else 1
    return build(config.network, channels, image_channels, outputs * channels, config.data.size)


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
        logits, calibration = _called(network, self.config, noise, self._time(images), images)
        return self._criterion(logits, masks) + _calibration_loss(calibration, masks, self.config)

    def predict(self, network: Callable, images: torch.Tensor, noise: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """Foreground probability [B, 1, H, W]."""
        return network(noise(0), self._time(images), images).float().sigmoid()

    def _time(self, images: torch.Tensor) -> torch.Tensor:
        return _told(torch.ones(len(images), dtype=images.dtype, device=images.device), self.config)


@dataclass(frozen=True)
class Denoising:
    """E2, E3 and E4: a clean signal (mask or image) is noised, and the network learns to tell which it was."""

    config: Config
    denoises = True

    @property
    def segments(self) -> bool:
        return self.config.experiment == "e2"

    def loss(self, network: Callable, images: torch.Tensor, masks: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        """What is minimised: the weighted error at random noise levels, of images [B, C, H, W] and masks [B, 1, H, W]."""
        diffusion = self.config.diffusion
        t = DENSITIES[diffusion.density](len(images), draw)
        t = discrete(t, diffusion.steps) if diffusion.discrete else t
        signal = self._signal(images, masks)
        return self.loss_at(network, images, masks, t, _noise_like(signal, draw))

    def loss_at(self, network, images, masks, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The loss at noise levels t [B] with the given noise [B, C, H, W].

        weighting "snr+1": (SNR + 1) times the squared error of x̂0 (Christensen et al., 2025), whatever the target.
        A learnt variance adds the variational term times T/1000, which does not train x̂0 (Nichol & Dhariwal, 2021).
        """
        diffusion = self.config.diffusion
        denoised = self._denoised(network, images, masks, t, noise)
        if diffusion.weighting == "target":
            errors = F.mse_loss(denoised.output, target(denoised.signal, noise, diffusion), reduction="none")
        else:
            errors = (denoised.x0 - denoised.signal).square() * self._log_snr(t).exp().add(1).float().view(-1, 1, 1, 1)
        errors = errors.flatten(1)
        loss = errors.mean(1) if diffusion.reduction == "mean" else errors.sum(1)
        if diffusion.variance == "learned":
            terms = bound(denoised.signal, denoised.x0.detach(), denoised.share, t, self._log_snr, diffusion.steps)
            loss = loss + diffusion.steps / 1000 * terms
        return loss.mean() + _calibration_loss(denoised.calibration, masks, self.config)

    def errors(
        self, network: Callable, images: torch.Tensor, masks: torch.Tensor, t: torch.Tensor, draw: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(mask error, loss), each [B], at noise levels t [B]. The loss is the target's mean squared error, unweighted.

        The mask error is the mean squared error of x̂0, clipped to the coding's range as in sampling, in units of masks
        in ±1 whatever the coding; NaN for E4.
        """
        signal = self._signal(images, masks)
        noise = _noise_like(signal, draw)
        denoised = self._denoised(network, images, masks, t, noise)
        wanted = target(signal, noise, self.config.diffusion)
        loss = F.mse_loss(denoised.output, wanted, reduction="none").flatten(1).mean(1)
        if self.config.experiment == "e4":
            return torch.full_like(loss, torch.nan), loss
        low, high = RANGES[self.config.diffusion.coding]
        x0 = denoised.x0.clamp(low, high)
        return ((x0 - signal) * 2 / (high - low)).square().flatten(1).mean(1), loss

    def predict(self, network: Callable, images: torch.Tensor, noise: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """Foreground probability [B, 1, H, W] of one sampled mask an image (E2). noise(k) is the k-th N(0, I) draw."""
        diffusion, inference = self.config.diffusion, self.config.inference
        clip = {"coding": RANGES[diffusion.coding], "pm1": (-1.0, 1.0), "none": (-torch.inf, torch.inf)}[inference.clip]

        def denoise(x_t: torch.Tensor, t: torch.Tensor):
            output, share, _ = self._output(network, x_t, t.expand(len(x_t)), images)
            scales = alpha_sigma(self._log_snr(t), x_t)
            return to_x0(output, x_t, *scales, diffusion).clamp(*clip), share

        draws = iter(range(1, inference.steps + 1))
        x0 = SAMPLERS[inference.sampler](denoise, noise(0), inference.steps, self._log_snr, lambda: noise(next(draws)))
        return decoded(x0, diffusion.coding)

    def _signal(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return images if self.config.experiment == "e4" else coded(masks, self.config.diffusion.coding)

    def _log_snr(self, t: torch.Tensor) -> torch.Tensor:
        return log_snr(t, self.config.diffusion)

    def _denoised(self, network, images, masks, t, noise) -> "_Denoised":
        signal = self._signal(images, masks)
        scales = alpha_sigma(self._log_snr(t), signal)
        x_t = noised(signal, noise, *scales)
        output, share, calibration = self._output(network, x_t, t, images)
        x0 = to_x0(output, x_t, *scales, self.config.diffusion)
        return _Denoised(signal, output, x0, share, calibration)

    def _output(self, network, x_t, t, images):
        """(prediction of the target, share of the large variance, calibration output or None)."""
        diffusion = self.config.diffusion
        condition = images if self.config.experiment == "e2" else None
        output, calibration = _called(network, self.config, x_t, _told(t, self.config).to(x_t.dtype), condition)
        share = {"small": 0.0, "large": 1.0}.get(diffusion.variance)
        if share is None:
            output, extra = output.chunk(2, dim=1)
            share = (extra + 1) / 2
        return activated(output, diffusion), share, calibration


@dataclass(frozen=True)
class _Denoised:
    signal: torch.Tensor  # what was noised
    output: torch.Tensor  # the prediction of the target
    x0: torch.Tensor  # of the signal, not clipped
    share: torch.Tensor | float
    calibration: torch.Tensor | None


def _told(t: torch.Tensor, config: Config) -> torch.Tensor:
    """What the network is told of t: the published chains count steps from 0 at t = 1/T."""
    return t * config.diffusion.steps - 1 if config.diffusion.time == "steps" else t


def _called(network, config: Config, x_t, t, image):
    """(output in float32, MedSegDiff's calibration output in float32 or None)."""
    if config.network.name != "medsegdiff" or image is None:
        return network(x_t, t, image).float(), None
    output, calibration = network(x_t, t, image, calibration=True)
    return output.float(), calibration.float()


def _calibration_loss(calibration: torch.Tensor | None, masks: torch.Tensor, config: Config):
    return 0.0 if calibration is None else config.network.calibration * F.mse_loss(calibration, masks)


def _noise_like(signal: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    return torch.randn(signal.shape, generator=draw, device=signal.device)
