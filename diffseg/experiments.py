"""The four experiments: what each noises, conditions on, predicts and minimises (Öttl et al., 2024, Sec. 3).

| | input | conditioned on | predicts | loss |
|---|---|---|---|---|
| e1 feed-forward segmentation | noise in place of x_t | image | mask logits | Dice + cross-entropy |
| e2 diffusion segmentation | noisy mask x_t | image | ε, x0 or v | mean squared error, or others on x0 |
| e3 mask prediction | noisy mask x_t | nothing | x0 (Eq. 2) | mean squared error |
| e4 image generation | noisy image x_t | nothing | ε (Eq. 1) | mean squared error |

A network's extra output, such as MedSegDiff's mask from the image alone, adds its own loss in E1 and E2.
What a loss learns for itself, its uncertainty or its density of timesteps, is a part of the network, and so of checkpoints.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.config import Config
from diffseg.diffusion.densities import AdaptiveDensity, round_up_to_chain, sample_timesteps
from diffseg.diffusion.early_stopping import EarlyStoppingDenoiser
from diffseg.diffusion.grids import sampling_times
from diffseg.diffusion.losses import LOSSES
from diffseg.diffusion.samplers import SAMPLERS
from diffseg.diffusion.schedules import alpha_sigma, log_snr
from diffseg.diffusion.targets import RANGES, activate, add_noise, decode, encode, to_x0, training_target
from diffseg.diffusion.uncertainty import Uncertainty
from diffseg.diffusion.variational import variational_bound
from diffseg.diffusion.weightings import target_weight
from diffseg.errors import ConfigError
from diffseg.evaluation.metrics import nll, overlap
from diffseg.networks.protocol import Dimensions
from diffseg.training.parallel import Workers

MASK_CHANNELS = 1
WHOLE_BATCH = slice(None)


def build_network(config: Config) -> nn.Module:
    """The configured network with the channels that its experiment needs."""
    channels = config.data.channels if config.experiment == "e4" else MASK_CHANNELS
    image_channels = config.data.channels if config.experiment in ("e1", "e2") else 0
    inputs = 2 if config.diffusion.self_conditioning else 1
    outputs = 2 if config.diffusion.variance == "learned" else 1
    dimensions = Dimensions(inputs * channels, image_channels, outputs * channels, config.data.size)
    network = config.network.implementation().build(dimensions)
    if config.diffusion.weighting == "learned":
        network.uncertainty = Uncertainty()
    if config.diffusion.density == "adaptive":
        network.density = AdaptiveDensity()
    return network


def build_experiment(config: Config) -> "FeedForward | Denoising":
    """The experiment of a configuration. Raises ConfigError for a fingerprint that is not measured yet."""
    if config.fingerprint_trials():
        raise ConfigError(
            "weighting or density fingerprint has no curve before its E3 trials are trained: run the trial by "
            "diffseg.trial.run or `diffseg run`, which train them first"
        )
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

    def loss(
        self,
        network: Callable,
        images: torch.Tensor,
        masks: torch.Tensor,
        draw: torch.Generator,
        part: slice = WHOLE_BATCH,
    ) -> torch.Tensor:
        """Dice plus cross-entropy, equally weighted, of images [B, C, H, W] and masks [B, 1, H, W].

        part: of the batch, whose mean it is; what is random is drawn for all of it.
        """
        noise = torch.randn(masks.shape, generator=draw, device=masks.device)[part]
        images, masks = images[part], masks[part]
        logits, extra = _called(network, self.config, noise, self._time(images), images)
        return self._criterion(logits, masks) + _extra_loss(extra, masks, self.config)

    def learn_from_losses(self, network: nn.Module, workers: Workers) -> None:
        """Nothing is learnt but by gradients."""

    def discard_losses(self, network: nn.Module) -> None:
        """Nothing was noted."""

    def predict(
        self, network: Callable, images: torch.Tensor, noise: Callable[[int], torch.Tensor], which: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(foreground probability [B, 1, H, W], 1 network evaluation each [B]) of the images which [B] of images [U, C, H, W].

        noise(0) is N(0, I).
        """
        images = images[which]
        found = network(noise(0), self._time(images), images).float().sigmoid()
        return found, torch.ones(len(which), dtype=torch.long, device=which.device)

    def _time(self, images: torch.Tensor) -> torch.Tensor:
        return _network_time(torch.ones(len(images), dtype=images.dtype, device=images.device), self.config)


@dataclass(frozen=True)
class Denoising:
    """E2, E3 and E4: a clean signal (mask or image) is noised, and the network learns to tell which it was."""

    config: Config
    denoises = True

    @property
    def segments(self) -> bool:
        return self.config.experiment == "e2"

    def loss(
        self,
        network: Callable,
        images: torch.Tensor,
        masks: torch.Tensor,
        draw: torch.Generator,
        part: slice = WHOLE_BATCH,
    ) -> torch.Tensor:
        """What is minimised: the weighted error at random noise levels, of images [B, C, H, W] and masks [B, 1, H, W].

        part: of the batch, whose mean it is; what is random is drawn for all of it. An adaptive density notes its losses.
        With self-conditioning, half of the steps are given an estimate (Analog Bits, Chen et al., 2023): those of an even
        seed, which the host knows without asking the device.
        """
        diffusion = self.config.diffusion
        adaptive = network.density if diffusion.density == "adaptive" else None
        drawn, density = sample_timesteps(len(images), diffusion, draw, adaptive)
        t = round_up_to_chain(drawn, diffusion.steps) if diffusion.discrete else drawn
        signal = self._signal(images, masks)
        guided = diffusion.self_conditioning and draw.initial_seed() % 2 == 0
        noise, masks = _noise_like(signal, draw)[part], masks[part]
        losses, extra = self._losses(network, images[part], masks, t[part], noise, guided)
        if adaptive is not None and network.training:
            adaptive.record(drawn[part], losses.detach())
        if density is not None and diffusion.unbiased:
            losses = losses / density[part].float()
        return losses.mean() + _extra_loss(extra, masks, self.config)

    def learn_from_losses(self, network: nn.Module, workers: Workers) -> None:
        """What is learnt not by gradients but from the losses of a whole batch, after all its parts."""
        if self.config.diffusion.density == "adaptive":
            t, losses = (
                workers.gather(values, self.config.training.batch) for values in network.density.take_recorded()
            )
            network.density.update(t, losses, self.config.diffusion.density_decay)

    def discard_losses(self, network: nn.Module) -> None:
        """The losses that were noted are to be measured again."""
        if self.config.diffusion.density == "adaptive":
            network.density.discard_recorded()

    def loss_at(self, network, images, masks, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The loss at noise levels t [B] with the given noise [B, C, H, W]."""
        losses, extra = self._losses(network, images, masks, t, noise, guided=False)
        return losses.mean() + _extra_loss(extra, masks, self.config)

    def _losses(self, network, images, masks, t, noise, guided: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(losses [B] at noise levels t [B], the network's extra output or None).

        A learnt variance adds the variational term times T/1000, which does not train x̂0 (Nichol & Dhariwal, 2021). A
        learnt weighting divides by what loss is to be expected at the noise level, and adds its logarithm (EDM2).
        """
        diffusion = self.config.diffusion
        denoised, wanted = self._denoised(network, images, masks, t, noise, guided)
        errors = LOSSES[diffusion.loss](denoised.output, wanted, denoised.logits, masks, diffusion)
        weight = target_weight(t, diffusion)
        if weight is not None:
            errors = errors * weight.float().view(-1, 1, 1, 1)
        errors = errors.flatten(1)
        losses = errors.mean(1) if diffusion.reduction == "mean" else errors.sum(1)
        if diffusion.variance == "learned":
            signal = self._signal(images, masks)
            terms = variational_bound(signal, denoised.x0.detach(), denoised.share, t, self._log_snr, diffusion.steps)
            losses = losses + diffusion.steps / 1000 * terms
        if diffusion.weighting == "learned":
            expected = network.uncertainty(self._log_snr(t))
            losses = losses / expected.exp() + expected
        return losses, denoised.extra

    def errors(
        self, network: Callable, images: torch.Tensor, masks: torch.Tensor, t: torch.Tensor, draw: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Errors, each [B], at noise levels t [B].

        loss           the target's mean squared error, unweighted
        mask_error     mean squared error of x̂0, clipped to the coding's range as in sampling, in units of masks in ±1
                       whatever the coding; NaN for E4, as are the others
        dice_error     1 − Dice of the mask x̂0 cut in the middle of the range
        cross_entropy  of x̂0 as a probability, mean over the pixels, in nats

        With self-conditioning, the network is given an estimate, as in sampling.
        """
        signal = self._signal(images, masks)
        noise = _noise_like(signal, draw)
        guided = self.config.diffusion.self_conditioning
        denoised, wanted = self._denoised(network, images, masks, t, noise, guided)
        loss = F.mse_loss(denoised.output, wanted, reduction="none").flatten(1).mean(1)
        if self.config.experiment == "e4":
            undefined = torch.full_like(loss, torch.nan)
            return {"loss": loss, "mask_error": undefined, "dice_error": undefined, "cross_entropy": undefined}
        low, high = RANGES[self.config.diffusion.coding]
        x0 = denoised.x0.clamp(low, high)
        pairs = list(zip(decode(x0, self.config.diffusion.coding), masks.bool(), strict=True))
        return {
            "loss": loss,
            "mask_error": ((x0 - signal) * 2 / (high - low)).square().flatten(1).mean(1),
            "dice_error": torch.stack([1 - overlap(found > 0.5, mask)[1] for found, mask in pairs]),
            "cross_entropy": torch.stack([nll(found, mask, members=None) for found, mask in pairs]),
        }

    def predict(
        self, network: Callable, images: torch.Tensor, noise: Callable[[int], torch.Tensor], which: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(foreground probability [B, 1, H, W] of sampled masks, network evaluations [B]), E2.

        Of the images which [B] of images [U, C, H, W]; noise(k) is the k-th N(0, I) draw. What a network makes of the image
        alone is made once an image.
        """
        has_features = hasattr(network, "image_features")
        features = tuple(found[which] for found in network.image_features(images)) if has_features else ()
        diffusion, inference = self.config.diffusion, self.config.inference
        clip = {"coding": RANGES[diffusion.coding], "pm1": (-1.0, 1.0), "none": (-torch.inf, torch.inf)}[inference.clip]
        images, first = images[which], noise(0)
        estimates = torch.zeros_like(first)

        def denoise(x_t: torch.Tensor, t: torch.Tensor, rows: torch.Tensor | slice):
            scales, of_rows = alpha_sigma(self._log_snr(t), x_t), tuple(found[rows] for found in features)
            times = t.expand(len(x_t))
            found = self._predicted(network, x_t, times, scales, images[rows], estimates[rows], of_rows)
            if diffusion.self_conditioning:
                estimates[rows] = found.x0
            return found.x0.clamp(*clip), found.share

        denoiser = EarlyStoppingDenoiser(denoise, inference.settled, sum(RANGES[diffusion.coding]) / 2, first)
        times = sampling_times(inference.steps, self._log_snr, first.device)
        draws, sample = itertools.count(1), SAMPLERS[inference.sampler]
        x0 = sample(denoiser, first, times, self._log_snr, lambda: noise(next(draws)), inference.eta)
        return decode(x0, diffusion.coding), denoiser.evaluations

    def _signal(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return images if self.config.experiment == "e4" else encode(masks, self.config.diffusion.coding)

    def _log_snr(self, t: torch.Tensor) -> torch.Tensor:
        return log_snr(t, self.config.diffusion)

    def _denoised(self, network, images, masks, t, noise, guided: bool) -> tuple["_Prediction", torch.Tensor]:
        """(prediction, target). guided: the network is given its own estimate, through which it is not trained."""
        signal = self._signal(images, masks)
        scales = alpha_sigma(self._log_snr(t), signal)
        x_t = add_noise(signal, noise, *scales)
        estimate = None
        if guided:
            with torch.no_grad():
                estimate = self._predicted(network, x_t, t, scales, images).x0
        found = self._predicted(network, x_t, t, scales, images, estimate)
        return found, training_target(signal, noise, *scales, self.config.diffusion)

    def _predicted(
        self,
        network,
        x_t,
        t,
        scales,
        images,
        estimate: torch.Tensor | None = None,
        features: tuple[torch.Tensor, ...] = (),
    ) -> "_Prediction":
        diffusion = self.config.diffusion
        condition = images if self.config.experiment == "e2" else None
        inputs = self._self_conditioned(x_t, estimate) if diffusion.self_conditioning else x_t
        times = _network_time(t, self.config).to(x_t.dtype)
        logits, extra_output = _called(network, self.config, inputs, times, condition, features)
        share = {"small": 0.0, "large": 1.0}.get(diffusion.variance)
        if share is None:
            logits, extra = logits.chunk(2, dim=1)
            share = (extra + 1) / 2
        output = activate(logits, diffusion)
        return _Prediction(logits, output, to_x0(output, x_t, *scales, diffusion), share, extra_output)

    def _self_conditioned(self, x_t: torch.Tensor, estimate: torch.Tensor | None) -> torch.Tensor:
        """x_t and the estimate of x0 within the coding's range, or zeros if there is none yet, [B, 2C, H, W]."""
        if estimate is None:
            return torch.cat([x_t, torch.zeros_like(x_t)], dim=1)
        return torch.cat([x_t, estimate.clamp(*RANGES[self.config.diffusion.coding])], dim=1)


@dataclass(frozen=True)
class _Prediction:
    logits: torch.Tensor  # before the activation
    output: torch.Tensor  # of the target
    x0: torch.Tensor  # of the signal, not clipped
    share: torch.Tensor | float  # of the large variance
    extra: torch.Tensor | None  # the network's extra output


def _network_time(t: torch.Tensor, config: Config) -> torch.Tensor:
    """What the network is told of t: the published chains count steps from 0 at t = 1/T."""
    return t * config.diffusion.steps - 1 if config.diffusion.time == "steps" else t


def _called(network, config: Config, x_t, t, image, features: tuple[torch.Tensor, ...] = ()):
    """(output in float32, the network's extra output in float32 or None)."""
    options = {"features": features} if features else {}
    if image is None or not config.network.implementation().extra_output:
        return network(x_t, t, image, **options).float(), None
    output, extra = network(x_t, t, image, **options, extra=True)
    return output.float(), extra.float()


def _extra_loss(extra: torch.Tensor | None, masks: torch.Tensor, config: Config):
    return 0.0 if extra is None else config.network.implementation().extra_loss(extra, masks)


def _noise_like(signal: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    return torch.randn(signal.shape, generator=draw, device=signal.device)
