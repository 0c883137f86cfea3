"""E2, E3 and E4: noise is added to a clean signal, a mask or an image, and the network learns to remove it."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.config import Config
from diffseg.diffusion.densities import AdaptiveDensity, round_up_to_chain, sample_timesteps
from diffseg.diffusion.early_stopping import EarlyStoppingDenoiser, Rows
from diffseg.diffusion.grids import sampling_times
from diffseg.diffusion.losses import LOSSES
from diffseg.diffusion.samplers import SAMPLERS, Share
from diffseg.diffusion.schedules import alpha_sigma, log_snr
from diffseg.diffusion.uncertainty import Uncertainty
from diffseg.diffusion.variational import variational_bound
from diffseg.diffusion.weightings import target_weight
from diffseg.experiments.denoiser import clean_signal, denoise, denoise_batch
from diffseg.experiments.network_call import Features, extra_loss
from diffseg.experiments.protocol import WHOLE_BATCH, NoiseDraws
from diffseg.experiments.signal_errors import measure_signal
from diffseg.labels.codings import RANGES
from diffseg.labels.labels import Labels, Masks
from diffseg.training.parallel import Workers


@dataclass(frozen=True)
class Denoising:
    """E2, E3 or E4, an `Experiment`."""

    config: Config

    @property
    def segments(self) -> bool:
        """Whether the network is conditioned on an image: in E2."""
        return self.config.experiment == "e2"

    def loss(
        self,
        network: nn.Module,
        images: torch.Tensor,
        masks: torch.Tensor,
        draw: torch.Generator,
        part: slice = WHOLE_BATCH,
    ) -> torch.Tensor:
        """Return the mean weighted error at random noise levels, as `Experiment.loss`.

        An adaptive density records the losses. With self-conditioning, half of the steps are given an estimate (Analog
        Bits, Chen et al., 2023): those of an even seed, which the host knows without waiting for the device.
        """
        diffusion = self.config.diffusion
        adaptive = self._density(network)
        drawn, density = sample_timesteps(len(images), diffusion, draw, adaptive)
        t = round_up_to_chain(drawn, diffusion.steps) if diffusion.discrete else drawn
        noise = self.draw_noise(images, masks, draw)[part]
        truth, guided = self._read(masks[part]), self._is_guided(draw.initial_seed())
        losses, extra = self._compute_losses(network, images[part], truth, t[part], noise, guided)
        if adaptive is not None and network.training:
            adaptive.record(drawn[part], losses.detach())
        if density is not None and diffusion.unbiased:
            losses = losses / density[part].float()
        return losses.mean() + extra_loss(extra, truth, self.config)

    def draw_noise(self, images: torch.Tensor, masks: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        """Return noise N(0, 1) of the shape of the signal of images [B, C, H, W] and stored masks [B, 1, H, W]."""
        channels = self._labels.channels
        shape = images.shape if self.config.experiment == "e4" else (len(masks), channels, *masks.shape[2:])
        return torch.randn(shape, generator=draw, device=masks.device)

    def _is_guided(self, seed: int) -> bool:
        """Return whether a training step with this seed is given an estimate."""
        return self.config.diffusion.self_conditioning and seed % 2 == 0

    def learn_from_losses(self, network: nn.Module, workers: Workers) -> None:
        """Update an adaptive density by the losses of the whole batch, of all parts and workers."""
        if adaptive := self._density(network):
            t, losses = (workers.gather(values, self.config.training.batch) for values in adaptive.take_recorded())
            adaptive.update(t, losses, self.config.diffusion.density_decay)

    def discard_losses(self, network: nn.Module) -> None:
        """Discard the losses that an adaptive density has recorded."""
        if adaptive := self._density(network):
            adaptive.discard_recorded()

    def computation(self, seed: int) -> int:
        """Return whether a step with this seed is self-conditioned, as a number."""
        return int(self._is_guided(seed))

    def loss_at(
        self, network: nn.Module, images: torch.Tensor, masks: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean loss at times t [B] with the given noise [B, C, H, W]."""
        truth = self._read(masks)
        losses, extra = self._compute_losses(network, images, truth, t, noise, guided=False)
        return losses.mean() + extra_loss(extra, truth, self.config)

    def measure_errors(
        self, network: nn.Module, images: torch.Tensor, masks: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return errors at times t [B] with noise of `draw_noise`, each [B, rows].

        The rows are those of all classes, and then of each of several (`Classes.rows`):

        loss           the target's mean squared error, unweighted, equal in all rows
        mask_error     mean squared error of x̂0, clipped to the coding's range as in sampling, in units of masks in ±1
                       whatever the coding; of all: the mean over the classes. NaN for E4, as are the others
        dice_error     1 − Dice of the mask x̂0; of all: the mean over the classes
        cross_entropy  of x̂0 as a probability, mean over the pixels, in nats; of all: categorical for exclusive classes, else
                       the mean over the classes

        With self-conditioning, the network is given an estimate, as in sampling.
        """
        truth = self._read(masks)
        signal = clean_signal(images, truth, self.config)
        guided = self.config.diffusion.self_conditioning
        prediction, target = denoise_batch(network, self.config, images, signal, t, noise, guided)
        loss = truth.mean(F.mse_loss(prediction.output, target, reduction="none"))[:, None]
        rows = len(self._labels.classes.rows)
        if self.config.experiment == "e4":
            undefined = torch.full_like(loss, torch.nan)
            errors = {"mask_error": undefined, "dice_error": undefined, "cross_entropy": undefined}
        else:
            errors = measure_signal(prediction.x0, signal, truth, self._labels)
        return {name: values.expand(-1, rows) for name, values in ({"loss": loss} | errors).items()}

    def predict(
        self, network: nn.Module, images: torch.Tensor, noise: NoiseDraws, which: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample masks (E2), as `Experiment.predict`.

        noise(0) is where sampling starts; noise(k) is the k-th draw on the way. The features that depend on the image alone
        are computed once an image.
        """
        diffusion, inference = self.config.diffusion, self.config.inference
        image_features: Callable[[torch.Tensor], Features] | None = getattr(network, "image_features", None)
        features = tuple(found[which] for found in image_features(images)) if image_features else ()
        clip = {"coding": RANGES[diffusion.coding], "pm1": (-1.0, 1.0), "none": (-torch.inf, torch.inf)}[inference.clip]
        images, first = images[which], noise(0)
        estimates = torch.zeros_like(first)

        def denoise_rows(x_t: torch.Tensor, t: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, Share]:
            scales, known = alpha_sigma(self._log_snr(t), x_t), tuple(found[rows] for found in features)
            times = t.expand(len(x_t))
            found = denoise(network, self.config, x_t, times, scales, images[rows], estimates[rows], known)
            if diffusion.self_conditioning:
                estimates[rows] = found.x0
            return found.x0.clamp(*clip), found.share

        denoiser = EarlyStoppingDenoiser(denoise_rows, inference.settled, self._labels.coding.decide, first)
        assert inference.steps is not None  # set in resolved configurations
        times = sampling_times(inference.steps, self._log_snr, first.device)
        draws, sample = itertools.count(1), SAMPLERS[inference.sampler]
        x0 = sample(denoiser, first, times, self._log_snr, lambda: noise(next(draws)), inference.eta)
        return self._labels.decode(x0), denoiser.evaluations

    def _compute_losses(
        self,
        network: nn.Module,
        images: torch.Tensor,
        masks: Masks,
        t: torch.Tensor,
        noise: torch.Tensor,
        guided: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (losses [B] at times t [B], the network's extra output or None).

        A learned variance adds the variational term times T/1000, which does not train x̂0 (Nichol & Dhariwal, 2021). A
        learned weighting divides by the expected loss of the noise level and adds its logarithm (EDM2).
        """
        diffusion = self.config.diffusion
        signal = clean_signal(images, masks, self.config)
        prediction, target = denoise_batch(network, self.config, images, signal, t, noise, guided)
        loss = LOSSES[diffusion.loss]
        errors = loss(prediction.output, target, prediction.logits, masks, self._labels, diffusion)
        weight = target_weight(t, diffusion)
        if weight is not None:
            errors = errors * weight.float().view(-1, 1, 1, 1)
        losses = masks.mean(errors) if diffusion.reduction == "mean" else masks.sum(errors)
        if isinstance(prediction.share, torch.Tensor):
            terms = variational_bound(
                signal, prediction.x0.detach(), prediction.share, t, self._log_snr, diffusion.steps
            )
            losses = losses + diffusion.steps / 1000 * (masks.mean(terms) / math.log(2))  # in bits, as published
        if diffusion.weighting == "learned":
            expected: torch.Tensor = cast(Uncertainty, network.uncertainty)(self._log_snr(t))
            losses = losses / expected.exp() + expected
        return losses, prediction.extra

    @property
    def _labels(self) -> Labels:
        return Labels.of(self.config)

    def _read(self, masks: torch.Tensor) -> Masks:
        """Return the masks of stored numbers [B, 1, H, W]. E4 does not see them, so that all pixels of its images count."""
        truth = self._labels.read(masks)
        return replace(truth, valid=None) if self.config.experiment == "e4" else truth

    def _density(self, network: nn.Module) -> AdaptiveDensity | None:
        """Return the network's adaptive density, if the configuration has one."""
        return cast(AdaptiveDensity, network.density) if self.config.diffusion.density == "adaptive" else None

    def _log_snr(self, t: torch.Tensor) -> torch.Tensor:
        return log_snr(t, self.config.diffusion)
