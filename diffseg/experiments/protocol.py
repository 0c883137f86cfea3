"""What training and prediction need of an experiment."""

from typing import Protocol

import torch
from torch import nn

from diffseg.training.parallel import Workers

WHOLE_BATCH = slice(None)


class NoiseDraws(Protocol):
    """The noise of predictions: windows of maps of whole images, and vectors that all windows of an image share."""

    def __call__(self, k: int) -> torch.Tensor:
        """Return the k-th draw of N(0, I), [B, C, H, W]."""

    def vectors(self, k: int, length: int) -> torch.Tensor:
        """Return the k-th draw of N(0, I), [B, length], one for each member of an image."""


class Experiment(Protocol):
    """A way to train a network and, if it segments, to predict masks with it."""

    @property
    def segments(self) -> bool:
        """Whether it predicts masks of images."""

    def loss(
        self,
        network: nn.Module,
        images: torch.Tensor,
        masks: torch.Tensor,
        draw: torch.Generator,
        part: slice = WHOLE_BATCH,
    ) -> torch.Tensor:
        """Return the mean loss [] of a part of a batch.

        Args:
            network: The network, compiled or not.
            images: The whole batch, [B, C, H, W] in [−1, 1].
            masks: [B, 1, H, W], the stored numbers of labels (`diffseg.labels.classes.Classes`).
            draw: The source of noise and timesteps. They are drawn for the whole batch, so that they do not depend on
                how it is cut into parts.
            part: The part of the batch that the network is called with.
        """

    def learn_from_losses(self, network: nn.Module, workers: Workers) -> None:
        """Update what is learned from the losses of a whole batch instead of by gradients."""

    def refresh(self, network: nn.Module, step: int) -> None:
        """Update what needs the host, after the step of this number (from 1)."""

    def discard_losses(self, network: nn.Module) -> None:
        """Discard the losses of a batch that will be computed again."""

    def computation(self, seed: int) -> int:
        """Return the number of the computation that a step with this seed runs.

        Steps with one number run the same kernels on the same memory, so that one CUDA graph serves them.
        """

    def plan(self, network: nn.Module, device: torch.device) -> torch.Tensor:
        """Return what prediction needs beside the images, the same for all: the times at which it samples."""

    def predict(
        self, network: nn.Module, images: torch.Tensor, noise: NoiseDraws, which: torch.Tensor, plan: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict masks of the images `which` [B] out of images [U, C, H, W], one for each noise, by a plan.

        Returns:
            (probability of each class [B, K, H, W], network evaluations [B])
        """
