"""Stochastic segmentation networks (Monteiro et al., 2020): the logits of a whole mask are normal, with pixels that depend."""

import math

import torch
from torch import nn

from diffseg.diffusion.losses import class_cross_entropy
from diffseg.experiments.heads.protocol import Head
from diffseg.experiments.protocol import NoiseDraws
from diffseg.labels.labels import Masks

LEAST_VARIANCE = 1e-5  # of a logit on its own, as published


class LowRank(Head):
    """Logits ~ N(μ, P Pᵀ + D) over all pixels and channels, P of rank `head.rank` and D diagonal.

    The network puts out μ, ln D and P. The loss is −ln of the mean likelihood of the mask over `head.draws` samples of the
    logits, divided by the number of pixels.
    """

    @property
    def outputs(self) -> int:
        """Mean, log variance and factor of each channel of the mask."""
        return self.labels.channels * (2 + self.config.head.rank)

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
        """Return the negative log-likelihood of the masks by pixel, as `Head.loss`."""
        draws, shape = self.config.head.draws, (self.labels.channels, *output.shape[2:])
        shared, own = (
            torch.randn(draws, count, *size, generator=draw, device=output.device)[:, part]
            for size in ((self.config.head.rank,), shape)
        )
        logits = self._shift(output.repeat(draws, 1, 1, 1), shared.flatten(0, 1), own.flatten(0, 1))
        masks = Masks(
            truth.channels.repeat(draws, 1, 1, 1), None if truth.valid is None else truth.valid.repeat(draws, 1, 1, 1)
        )
        likelihoods = -masks.sum(class_cross_entropy(logits, masks, self.labels)).view(draws, -1)  # logarithms
        return (math.log(draws) - likelihoods.logsumexp(0)).mean() / output[0, 0].numel()

    def sample(
        self, network: nn.Module, output: torch.Tensor, images: torch.Tensor, which: torch.Tensor, noise: NoiseDraws
    ) -> torch.Tensor:
        """Return a sample of the logits, as `Head.sample`: tiles of an image share what moves all its pixels."""
        return self._shift(output[which], noise.vectors(0, self.config.head.rank), noise(0))

    def _shift(self, output: torch.Tensor, shared: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Return μ + P ε + √D η of an output [B, outputs, H, W], with ε = shared [B, rank] and η = own [B, C, H, W]."""
        parts = output.view(len(output), 2 + self.config.head.rank, self.labels.channels, *output.shape[2:])
        mean, log_variance, factor = parts[:, 0], parts[:, 1], parts[:, 2:]
        moved = (factor * shared[:, :, None, None, None]).sum(1)
        return mean + moved + (log_variance.exp() + LEAST_VARIANCE).sqrt() * own
