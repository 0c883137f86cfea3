"""A probability for each pixel."""

import torch
from torch import nn

from diffseg.diffusion.losses import dice, mean_class_cross_entropy
from diffseg.experiments.heads.protocol import Head
from diffseg.experiments.protocol import NoiseDraws
from diffseg.labels.labels import Masks


class Pixels(Head):
    """The output is the logits of a probability for each pixel, trained by Dice loss plus cross-entropy, equally weighted."""

    probabilistic = False

    @property
    def outputs(self) -> int:
        """One channel for each of the mask's."""
        return self.labels.channels

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
        """Return Dice loss plus cross-entropy, as `Head.loss`."""
        entropy = mean_class_cross_entropy(output, truth, self.labels)
        return dice(output, truth, self.labels).mean() + entropy

    def sample(
        self, network: nn.Module, output: torch.Tensor, images: torch.Tensor, which: torch.Tensor, noise: NoiseDraws
    ) -> torch.Tensor:
        """Return the output, as `Head.sample`."""
        return output[which]
