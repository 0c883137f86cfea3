"""What E1 needs of a head."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

from diffseg.config import Config
from diffseg.experiments.protocol import NoiseDraws
from diffseg.labels.labels import Labels, Masks


class Head(ABC):
    """How a mask follows from the output of E1's network.

    A probabilistic head samples whole masks given one output for each image: in place of the noisy mask, the network is given
    zeros, and all randomness lies in the head.
    """

    probabilistic: ClassVar[bool] = True

    def __init__(self, config: Config):
        """Take the trial's configuration."""
        self.config, self.labels = config, Labels.of(config)

    @property
    @abstractmethod
    def outputs(self) -> int:
        """The channels that the network puts out."""

    def build(self) -> nn.Module | None:
        """Return what the head learns beside the network, with fresh weights; None if that is nothing.

        It becomes a part of the network: its attribute `latent`.
        """
        return None

    @abstractmethod
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
        """Return the mean loss [] of a part of a batch.

        Args:
            network: The network, compiled or not.
            output: What it put out, float32 [B, outputs, H, W].
            images: The part's images, [B, C, H, W].
            truth: The part's masks.
            draw: The source of noise, which is drawn for the whole batch.
            part: The part of the batch.
            count: The images of the whole batch.
        """

    @abstractmethod
    def sample(
        self, network: nn.Module, output: torch.Tensor, images: torch.Tensor, which: torch.Tensor, noise: NoiseDraws
    ) -> torch.Tensor:
        """Return a sample of the logits, float32 [B, C, H, W], of the images `which` [B], one for each noise.

        output and images are those of all images, [U, …].
        """
