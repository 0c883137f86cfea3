"""E1: the mask from the image, with noise where a diffusion network expects the noisy mask."""

from dataclasses import dataclass

import torch
from torch import nn

from diffseg.config import Config
from diffseg.diffusion.losses import dice, mean_class_cross_entropy
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
        """Return Dice loss plus cross-entropy, equally weighted, as `Experiment.loss`."""
        labels = Labels.of(self.config)
        shape = len(masks), labels.channels, *masks.shape[2:]
        noise = torch.randn(shape, generator=draw, device=masks.device)[part]
        images, truth = images[part], labels.read(masks[part])
        logits, extra = call_network(network, self.config, noise, self._time(images), images)
        entropy = mean_class_cross_entropy(logits, truth, labels)
        return dice(logits, truth, labels).mean() + entropy + extra_loss(extra, truth, self.config)

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
        """Predict masks by one network evaluation each, as `Experiment.predict`. Only noise(0) is used."""
        images = images[which]
        logits: torch.Tensor = network(noise(0), self._time(images), images)
        labels = Labels.of(self.config)
        found = labels.activate(logits.float())[:, labels.foreground]
        return found, torch.ones(len(which), dtype=torch.long, device=which.device)

    def _time(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's time at t = 1, [B]."""
        return network_time(torch.ones(len(images), dtype=images.dtype, device=images.device), self.config)
