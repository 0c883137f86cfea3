"""E2, E3 and E4: noise is added to a clean signal, a mask or an image, and the network learns to remove it."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
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
from diffseg.diffusion.targets import RANGES, decode
from diffseg.diffusion.uncertainty import Uncertainty
from diffseg.diffusion.variational import variational_bound
from diffseg.diffusion.weightings import target_weight
from diffseg.evaluation.metrics import nll, overlap
from diffseg.experiments.denoiser import clean_signal, denoise, denoise_batch
from diffseg.experiments.network_call import Features, extra_loss
from diffseg.experiments.protocol import WHOLE_BATCH, NoiseDraws
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
        signal = clean_signal(images, masks, self.config)
        guided = self._is_guided(draw.initial_seed())
        noise, masks = _draw_noise(signal, draw)[part], masks[part]
        losses, extra = self._compute_losses(network, images[part], masks, t[part], noise, guided)
        if adaptive is not None and network.training:
            adaptive.record(drawn[part], losses.detach())
        if density is not None and diffusion.unbiased:
            losses = losses / density[part].float()
        return losses.mean() + extra_loss(extra, masks, self.config)

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
        losses, extra = self._compute_losses(network, images, masks, t, noise, guided=False)
        return losses.mean() + extra_loss(extra, masks, self.config)

    def measure_errors(
        self, network: nn.Module, images: torch.Tensor, masks: torch.Tensor, t: torch.Tensor, draw: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Return errors, each [B], at times t [B].

        loss           the target's mean squared error, unweighted
        mask_error     mean squared error of x̂0, clipped to the coding's range as in sampling, in units of masks in ±1
                       whatever the coding; NaN for E4, as are the others
        dice_error     1 − Dice of the mask x̂0, cut in the middle of the range
        cross_entropy  of x̂0 as a probability, mean over the pixels, in nats

        With self-conditioning, the network is given an estimate, as in sampling.
        """
        coding, signal = self.config.diffusion.coding, clean_signal(images, masks, self.config)
        noise, guided = _draw_noise(signal, draw), self.config.diffusion.self_conditioning
        prediction, target = denoise_batch(network, self.config, images, masks, t, noise, guided)
        loss = F.mse_loss(prediction.output, target, reduction="none").flatten(1).mean(1)
        if self.config.experiment == "e4":
            undefined = torch.full_like(loss, torch.nan)
            return {"loss": loss, "mask_error": undefined, "dice_error": undefined, "cross_entropy": undefined}
        low, high = RANGES[coding]
        x0 = prediction.x0.clamp(low, high)
        pairs = list(zip(decode(x0, coding), masks.bool(), strict=True))
        return {
            "loss": loss,
            "mask_error": ((x0 - signal) * 2 / (high - low)).square().flatten(1).mean(1),
            "dice_error": torch.stack([1 - overlap(found > 0.5, mask)[1] for found, mask in pairs]),
            "cross_entropy": torch.stack([nll(found, mask, members=None) for found, mask in pairs]),
        }

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

        denoiser = EarlyStoppingDenoiser(denoise_rows, inference.settled, sum(RANGES[diffusion.coding]) / 2, first)
        assert inference.steps is not None  # set in resolved configurations
        times = sampling_times(inference.steps, self._log_snr, first.device)
        draws, sample = itertools.count(1), SAMPLERS[inference.sampler]
        x0 = sample(denoiser, first, times, self._log_snr, lambda: noise(next(draws)), inference.eta)
        return decode(x0, diffusion.coding), denoiser.evaluations

    def _compute_losses(
        self,
        network: nn.Module,
        images: torch.Tensor,
        masks: torch.Tensor,
        t: torch.Tensor,
        noise: torch.Tensor,
        guided: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (losses [B] at times t [B], the network's extra output or None).

        A learned variance adds the variational term times T/1000, which does not train x̂0 (Nichol & Dhariwal, 2021). A
        learned weighting divides by the expected loss of the noise level and adds its logarithm (EDM2).
        """
        diffusion = self.config.diffusion
        prediction, target = denoise_batch(network, self.config, images, masks, t, noise, guided)
        errors = LOSSES[diffusion.loss](prediction.output, target, prediction.logits, masks, diffusion)
        weight = target_weight(t, diffusion)
        if weight is not None:
            errors = errors * weight.float().view(-1, 1, 1, 1)
        errors = errors.flatten(1)
        losses = errors.mean(1) if diffusion.reduction == "mean" else errors.sum(1)
        if isinstance(prediction.share, torch.Tensor):
            signal, x0 = clean_signal(images, masks, self.config), prediction.x0.detach()
            terms = variational_bound(signal, x0, prediction.share, t, self._log_snr, diffusion.steps)
            losses = losses + diffusion.steps / 1000 * terms
        if diffusion.weighting == "learned":
            expected: torch.Tensor = cast(Uncertainty, network.uncertainty)(self._log_snr(t))
            losses = losses / expected.exp() + expected
        return losses, prediction.extra

    def _density(self, network: nn.Module) -> AdaptiveDensity | None:
        """Return the network's adaptive density, if the configuration has one."""
        return cast(AdaptiveDensity, network.density) if self.config.diffusion.density == "adaptive" else None

    def _log_snr(self, t: torch.Tensor) -> torch.Tensor:
        return log_snr(t, self.config.diffusion)


def _draw_noise(signal: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    return torch.randn(signal.shape, generator=draw, device=signal.device)
