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
from diffseg.diffusion.densities import AdaptiveDensity, LevelMeans, round_up_to_chain, sample_timesteps
from diffseg.diffusion.early_stopping import EarlyStoppingDenoiser, Rows
from diffseg.diffusion.grids import sampling_times
from diffseg.diffusion.level_errors import REFRESH, LevelErrors, OnlineCurve
from diffseg.diffusion.losses import LOSSES
from diffseg.diffusion.samplers import SAMPLERS, Share, count_steps
from diffseg.diffusion.schedules import alpha_sigma, log_snr
from diffseg.diffusion.targets import epsilon_to_x0, to_epsilon
from diffseg.diffusion.uncertainty import Uncertainty
from diffseg.diffusion.variational import variational_bound
from diffseg.diffusion.weightings import target_weight
from diffseg.experiments.denoiser import NO_ESTIMATE, OwnEstimate, clean_signal, denoise, denoise_batch
from diffseg.experiments.network_call import Features, extra_loss
from diffseg.experiments.protocol import WHOLE_BATCH, NoiseDraws
from diffseg.experiments.signal_errors import measure_signal
from diffseg.labels.codings import RANGES
from diffseg.labels.labels import Labels, Masks
from diffseg.training.parallel import Workers

GUIDED, RECYCLED = 1, 2  # bits of the number of a step's computation
PARTS = 1000  # in which the share of recycled steps is counted


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

        The losses are recorded for an adaptive density, and the errors of x̂0 in E2. Which steps are given an estimate, and
        which noise one, follows from the seed, which the host knows without waiting for the device: with self-conditioning
        half of them (Analog Bits, Chen et al., 2023), with recycling the share that is set (Fu et al., 2023).
        """
        diffusion = self.config.diffusion
        drawn, density = sample_timesteps(len(images), diffusion, draw, self._bin_probabilities(network))
        t = round_up_to_chain(drawn, diffusion.steps) if diffusion.discrete else drawn
        noise = self.draw_noise(images, masks, draw)[part]
        own = self._draw_own_estimate(t, draw, part)
        perturbation = None
        if diffusion.input_perturbation:
            perturbation = diffusion.input_perturbation * self.draw_noise(images, masks, draw)[part]
        truth = self._read(masks[part])
        losses, errors, extra = self._compute_losses(network, images[part], truth, t[part], noise, own, perturbation)
        recorded = {"level_errors": errors, "density": losses.detach()}
        for name, means in self._means(network).items():
            if network.training:
                means.record(drawn[part], recorded[name])
        if density is not None and diffusion.unbiased:
            losses = losses / density[part].float()
        return losses.mean() + extra_loss(extra, truth, self.config)

    def draw_noise(self, images: torch.Tensor, masks: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        """Return noise N(0, 1) of the shape of the signal of images [B, C, H, W] and stored masks [B, 1, H, W]."""
        channels = self._labels.channels
        shape = images.shape if self.config.experiment == "e4" else (len(masks), channels, *masks.shape[2:])
        return torch.randn(shape, generator=draw, device=masks.device)

    def _draw_own_estimate(self, t: torch.Tensor, draw: torch.Generator, part: slice) -> OwnEstimate:
        """Return how a part of a training step is given the network's own estimate, at times uniform from t [B] to 1."""
        diffusion, kind = self.config.diffusion, self.computation(draw.initial_seed())
        guided, recycled = bool(kind & GUIDED), bool(kind & RECYCLED)
        if not recycled and not (guided and diffusion.estimate == "noisier-level"):
            return OwnEstimate(guided)
        earlier = t + (1 - t) * torch.rand(len(t), generator=draw, device=t.device, dtype=t.dtype)
        return OwnEstimate(guided, recycled, earlier[part])

    def computation(self, seed: int) -> int:
        """Return whether a step with this seed is given an estimate of its own, and whether it noises one, as a number."""
        diffusion = self.config.diffusion
        guided = diffusion.self_conditioning and seed % 2 == 0
        recycled = (seed // 2) % PARTS < diffusion.recycling * PARTS
        return GUIDED * guided + RECYCLED * recycled

    def learn_from_losses(self, network: nn.Module, workers: Workers) -> None:
        """Update the network's means over the noise levels by the whole batch, of all parts and workers."""
        for means in self._means(network).values():
            t, values = (workers.gather(values, self.config.training.batch) for values in means.take_recorded())
            means.update(t, values, self.config.diffusion.density_decay)

    def discard_losses(self, network: nn.Module) -> None:
        """Discard what the network's means over the noise levels have recorded."""
        for means in self._means(network).values():
            means.discard_recorded()

    def refresh(self, network: nn.Module, step: int) -> None:
        """Let an online curve follow the errors of x̂0, every REFRESH steps."""
        online = self.online_curve(network)
        if online is not None and step % REFRESH == 0:
            online.refresh(self.config.diffusion)

    def online_curve(self, network: nn.Module) -> OnlineCurve | None:
        """Return the network's online curve, if the configuration has one."""
        means = self._means(network).get("level_errors")
        return means if isinstance(means, OnlineCurve) else None

    def loss_at(
        self, network: nn.Module, images: torch.Tensor, masks: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean loss at times t [B] with the given noise [B, C, H, W]."""
        truth = self._read(masks)
        losses, _, extra = self._compute_losses(network, images, truth, t, noise)
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
        own = OwnEstimate(guided=self.config.diffusion.self_conditioning)
        prediction, target = denoise_batch(network, self.config, images, signal, t, noise, own)
        loss = truth.mean(F.mse_loss(prediction.output, target, reduction="none"))[:, None]
        rows = len(self._labels.classes.rows)
        if self.config.experiment == "e4":
            undefined = torch.full_like(loss, torch.nan)
            errors = {"mask_error": undefined, "dice_error": undefined, "cross_entropy": undefined}
        else:
            errors = measure_signal(prediction.x0, signal, truth, self._labels)
        return {name: values.expand(-1, rows) for name, values in ({"loss": loss} | errors).items()}

    def plan(self, network: nn.Module, device: torch.device) -> torch.Tensor:
        """Return the times at which masks are sampled, as `Experiment.plan`.

        Raises UserError for a grid that follows the training's errors if these do not rise with the noise.
        """
        inference, diffusion = self.config.inference, self.config.diffusion
        assert inference.steps is not None  # set in resolved configurations
        curve = inference.curve
        if inference.grid in ("entropic", "least-kl"):
            curve = cast(LevelErrors, network.level_errors).grid_curve(inference.grid, diffusion)
        steps = count_steps(inference.sampler, inference.steps)
        return sampling_times(steps, self._log_snr, device, inference.grid, curve)

    def predict(
        self, network: nn.Module, images: torch.Tensor, noise: NoiseDraws, which: torch.Tensor, plan: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample masks (E2), as `Experiment.predict`.

        noise(0) is where sampling starts; noise(k) is the k-th draw on the way. The features that depend on the image alone
        are computed once an image.
        """
        diffusion, inference = self.config.diffusion, self.config.inference
        image_features: Callable[[torch.Tensor], Features] | None = getattr(network, "image_features", None)
        features = tuple(found[which] for found in image_features(images)) if image_features else ()
        clip = {"coding": self._range, "pm1": (-1.0, 1.0), "none": (-torch.inf, torch.inf)}[inference.clip]
        images, first = images[which], noise(0)
        estimates = torch.zeros_like(first)

        def denoise_rows(x_t: torch.Tensor, t: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, Share]:
            scales, known = alpha_sigma(self._log_snr(t), x_t), tuple(found[rows] for found in features)
            times = t.expand(len(x_t))
            found = denoise(network, self.config, x_t, times, scales, images[rows], estimates[rows], known)
            if diffusion.self_conditioning:
                estimates[rows] = found.x0
            x0 = found.x0
            if inference.epsilon_scale != 1:
                x0 = epsilon_to_x0(to_epsilon(x0, x_t, *scales) / inference.epsilon_scale, x_t, *scales)
            return x0.clamp(*clip), found.share

        denoiser = EarlyStoppingDenoiser(denoise_rows, inference.settled, self._labels.coding.decide, first)
        draws, sample = itertools.count(1), SAMPLERS[inference.sampler]
        x0 = sample(denoiser, first, plan, self._log_snr, lambda: noise(next(draws)), inference.eta)
        return self._labels.decode(x0), denoiser.evaluations

    def _compute_losses(
        self,
        network: nn.Module,
        images: torch.Tensor,
        masks: Masks,
        t: torch.Tensor,
        noise: torch.Tensor,
        own: OwnEstimate = NO_ESTIMATE,
        perturbation: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return (losses [B] at times t [B], squared errors of x̂0 [B], the network's extra output or None).

        A learned variance adds the variational term times T/1000, which does not train x̂0 (Nichol & Dhariwal, 2021). A
        learned weighting divides by the expected loss of the noise level and adds its logarithm (EDM2).
        """
        diffusion = self.config.diffusion
        signal = clean_signal(images, masks, self.config)
        prediction, target = denoise_batch(network, self.config, images, signal, t, noise, own, perturbation)
        loss = LOSSES[diffusion.loss]
        errors = loss(prediction.output, target, prediction.logits, masks, self._labels, diffusion)
        online = self.online_curve(network)
        weight = target_weight(t, diffusion, online.weight(t, diffusion) if online else None)
        if weight is not None:
            errors = errors * weight.float().view(-1, 1, 1, 1)
        losses = masks.mean(errors) if diffusion.reduction == "mean" else masks.sum(errors)
        x0 = prediction.x0.detach()
        if isinstance(prediction.share, torch.Tensor):
            terms = variational_bound(signal, x0, prediction.share, t, self._log_snr, diffusion.steps)
            losses = losses + diffusion.steps / 1000 * (masks.mean(terms) / math.log(2))  # in bits, as published
        if diffusion.weighting == "learned":
            expected: torch.Tensor = cast(Uncertainty, network.uncertainty)(self._log_snr(t))
            losses = losses / expected.exp() + expected
        return losses, masks.mean((x0.clamp(*self._range) - signal).square()), prediction.extra

    @property
    def _labels(self) -> Labels:
        return Labels.of(self.config)

    def _read(self, masks: torch.Tensor) -> Masks:
        """Return the masks of stored numbers [B, 1, H, W]. E4 does not see them, so that all pixels of its images count."""
        truth = self._labels.read(masks)
        return replace(truth, valid=None) if self.config.experiment == "e4" else truth

    @property
    def _range(self) -> tuple[float, float]:
        """The range of the signal."""
        return RANGES[self.config.diffusion.coding]

    def _means(self, network: nn.Module) -> dict[str, LevelMeans]:
        """Return the means over the noise levels that the network learns from its losses, by their names in it."""
        named = {name: getattr(network, name, None) for name in ("level_errors", "density")}
        return {name: means for name, means in named.items() if isinstance(means, LevelMeans)}

    def _bin_probabilities(self, network: nn.Module) -> torch.Tensor | None:
        """Return the probabilities of equal bins of t that the network has learned, if its density is learned."""
        if self.config.diffusion.density == "adaptive":
            return cast(AdaptiveDensity, network.density).bin_probabilities(self.config.diffusion.mixing)
        if self.config.diffusion.density == "online":
            return cast(OnlineCurve, network.level_errors).probabilities
        return None

    def _log_snr(self, t: torch.Tensor) -> torch.Tensor:
        return log_snr(t, self.config.diffusion)
