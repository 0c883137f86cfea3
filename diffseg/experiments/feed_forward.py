"""E1: the mask from the image, with noise where a diffusion network expects the noisy mask."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from diffseg.config import Config
from diffseg.experiments.dropout import keep_dropping
from diffseg.experiments.heads import Head, make_head
from diffseg.experiments.network_call import call_network, extra_loss, network_time
from diffseg.experiments.protocol import WHOLE_BATCH, NoiseDraws
from diffseg.labels.labels import Labels
from diffseg.training.parallel import Workers


@dataclass(frozen=True)
class FeedForward:
    """E1, an `Experiment`."""

    config: Config

    @property
    def segments(self) -> bool:
        """True."""
        return True

    def loss(
        self,
        network: nn.Module,
        images: torch.Tensor,
        masks: torch.Tensor,
        draw: torch.Generator,
        part: slice = WHOLE_BATCH,
    ) -> torch.Tensor:
        """Return the head's loss, as `Experiment.loss`."""
        labels, count = Labels.of(self.config), len(masks)
        shape = count, labels.channels, *masks.shape[2:]
        if self._head.probabilistic:
            x_t = torch.zeros(shape, device=masks.device)[part]
        else:
            x_t = torch.randn(shape, generator=draw, device=masks.device)[part]
        images, truth = images[part], labels.read(masks[part])
        output, extra = call_network(network, self.config, x_t, self._time(images), images)
        loss = self._head.loss(network, output, images, truth, draw, part, count)
        return loss + extra_loss(extra, truth, self.config)

    def learn_from_losses(self, network: nn.Module, workers: Workers) -> None:
        """Do nothing: all is learned by gradients."""

    def refresh(self, network: nn.Module, step: int) -> None:
        """Do nothing."""

    def discard_losses(self, network: nn.Module) -> None:
        """Do nothing: no losses are kept."""

    def computation(self, seed: int) -> int:
        """Return 0: all steps run the same computation."""
        return 0

    def plan(self, network: nn.Module, device: torch.device) -> torch.Tensor:
        """Return the one time of the network's one evaluation, 1."""
        return torch.ones(1, device=device)

    def predict(
        self, network: nn.Module, images: torch.Tensor, noise: NoiseDraws, which: torch.Tensor, plan: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict masks, as `Experiment.predict`.

        A probabilistic head samples from one network evaluation an image. Without one, or with units dropped, each mask has an
        evaluation of its own.
        """
        dropped = self.config.inference.dropout
        if dropped or not self._head.probabilistic:
            images, which = images[which], torch.arange(len(which), device=which.device)
        labels = Labels.of(self.config)
        shape = len(images), labels.channels, *images.shape[2:]
        x_t = torch.zeros(shape, device=images.device) if self._head.probabilistic else noise(0)
        with keep_dropping(network, noise) if dropped else nullcontext():
            output: torch.Tensor = network(x_t, self._time(images), images)
        logits = self._head.sample(network, output.float(), images, which, noise)
        found = labels.activate(logits)[:, labels.foreground]
        return found, torch.ones(len(which), dtype=torch.long, device=which.device)

    @cached_property
    def _head(self) -> Head:
        return make_head(self.config)

    def _time(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's time at t = 1, [B]."""
        return network_time(torch.ones(len(images), dtype=images.dtype, device=images.device), self.config)
