"""The labels of a trial: what stored masks, signals, outputs of networks and probabilities mean."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from diffseg.config import Config, Data, Diffusion
from diffseg.labels.classes import IGNORED, Classes
from diffseg.labels.codings import Coding, SignedDistance, make_coding


@dataclass(frozen=True)
class Masks:
    """The masks of a batch as losses and metrics see them."""

    channels: torch.Tensor  # float32 of 0 and 1, [B, C, H, W], C = Classes.channels; ignored pixels are background
    valid: torch.Tensor | None  # bool [B, 1, H, W]: the pixels that count; None if all do

    def mean(self, errors: torch.Tensor) -> torch.Tensor:
        """Return the mean [B] of errors [B, *, H, W] over the pixels that count, and over the channels."""
        if self.valid is None:
            return errors.flatten(1).mean(1)
        counted = errors.masked_fill(~self.valid, 0.0).flatten(1).sum(1)
        return counted / (errors.shape[1] * self.valid.flatten(1).sum(1)).clamp(min=1)

    def sum(self, errors: torch.Tensor) -> torch.Tensor:
        """Return the sum [B] of errors [B, *, H, W] over the pixels that count, and over the channels."""
        return (errors if self.valid is None else errors.masked_fill(~self.valid, 0.0)).flatten(1).sum(1)


@dataclass(frozen=True)
class Labels:
    """The classes of a trial's masks and their coding."""

    classes: Classes
    coding: Coding

    @classmethod
    def of(cls, config: Config) -> "Labels":
        """Return the labels of a trial."""
        return _make_labels(config.data, config.diffusion)

    @property
    def channels(self) -> int:
        """The channels of the signal that a diffusion noises and predicts."""
        return self.coding.channels

    @property
    def several(self) -> bool:
        """Whether exclusive classes compete for a pixel, so that their probabilities add up to 1 with the background's."""
        return self.classes.exclusive and self.classes.count > 1

    @property
    def compete(self) -> bool:
        """Whether the channels of the signal are exclusive classes, of which a softmax gives the probabilities."""
        return self.several and type(self.coding) is Coding

    @property
    def linear(self) -> bool:
        """Whether the channels of the signal are the classes' probabilities but for scale and shift."""
        return not self.several and not isinstance(self.coding, SignedDistance)

    @cached_property
    def foreground(self) -> slice:
        """The channels of a mask that are classes, without the background's."""
        return slice(1, None) if self.several else slice(None)

    def read(self, numbers: torch.Tensor) -> Masks:
        """Return the masks of stored numbers [B, 1, H, W], of any type."""
        valid = numbers != IGNORED if self.classes.ignored else None
        if self.classes.count == 1:
            return Masks(numbers.float() if valid is None else numbers.float() * valid, valid)
        return Masks(self._look_up(numbers), valid)

    def class_masks(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return which pixels of stored numbers [*, H, W] belong to each class, bool [*, K, H, W]."""
        channels = self.read(numbers.reshape(-1, 1, *numbers.shape[-2:])).channels[:, self.foreground]
        return channels.bool().reshape(*numbers.shape[:-2], -1, *numbers.shape[-2:])

    def activate(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the channels of a mask, given logits [B, C, H, W]."""
        return logits.softmax(1) if self.several else logits.sigmoid()

    def decode(self, signal: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the classes, [B, K, H, W], given a signal."""
        return self.coding.probabilities(signal)[:, self.foreground]

    def decide(self, probabilities: torch.Tensor, threshold: float) -> torch.Tensor:
        """Return the masks of the classes, bool [*, K, H, W], given their probabilities.

        Of exclusive classes and the background, a pixel belongs to the most probable one. Other classes contain the pixels
        with a probability above the threshold.
        """
        if not self.several:
            return probabilities > threshold
        background = 1 - probabilities.sum(-3, keepdim=True)
        best = torch.cat([background, probabilities], dim=-3).argmax(-3, keepdim=True)
        numbers = torch.arange(1, self.classes.count + 1, device=best.device)[:, None, None]
        return best == numbers

    def _look_up(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the channels [B, C, H, W] of stored numbers [B, 1, H, W]."""
        table = _membership(self.classes, numbers.device)
        return table[numbers[:, 0].long()].permute(0, 3, 1, 2).contiguous()


@lru_cache(maxsize=64)
def _make_labels(data: Data, diffusion: Diffusion) -> Labels:
    classes = Classes.of(data)
    return Labels(classes, make_coding(classes, diffusion))


@lru_cache(maxsize=64)
def _membership(classes: Classes, device: torch.device) -> torch.Tensor:
    """Return which channels of a mask a stored number sets, float32 [256, C] of 0 and 1. It is copied to a device once."""
    table = torch.zeros(256, classes.channels)
    offset = classes.channels - classes.count
    if offset:
        table[[0, IGNORED], 0] = 1
    for channel, numbers in enumerate(classes.numbers, offset):
        table[list(numbers), channel] = 1
    return table.to(device)
