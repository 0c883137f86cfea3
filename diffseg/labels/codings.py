"""Codings: the signals that a diffusion noises in place of masks.

A mask has C channels of 0 and 1 (`Classes.channels`). pm1 and 01 give each channel two values. sdf takes the signed distance
to each channel's border. bits takes the binary digits of the number of an exclusive class (analog bits, Chen et al., 2023).
All tensors are [B, channels, H, W].
"""

from dataclasses import dataclass

import torch

from diffseg.config import Diffusion
from diffseg.diffusion.distance import signed_distance
from diffseg.labels.classes import Classes

RANGES = {"pm1": (-1.0, 1.0), "01": (0.0, 1.0), "bits": (-1.0, 1.0), "sdf": (-1.0, 1.0)}  # of the signals, by coding


@dataclass(frozen=True)
class Coding:
    """One channel a class, with the value `low` outside and `high` inside of it."""

    classes: Classes
    low: float
    high: float

    @property
    def channels(self) -> int:
        """The number of channels of the signal."""
        return self.classes.channels

    def encode(self, masks: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Return the signal of masks of 0 and 1 with one channel a class, float32.

        valid: bool [B, 1, H, W], the pixels of a known class; None if all are. The signal of others is any.
        """
        return self.low + (self.high - self.low) * self.units(masks).float()

    def units(self, masks: torch.Tensor) -> torch.Tensor:
        """Return what a sigmoid of each channel of the output estimates: 0 or 1."""
        return masks

    def probabilities(self, signal: torch.Tensor) -> torch.Tensor:
        """Return the probability of each channel of the masks, given a signal that need not be clean; in [0, 1]."""
        scores = ((signal - self.low) / (self.high - self.low)).clamp(0, 1)
        return _normalise(scores, signal) if self.classes.exclusive and self.channels > 1 else scores

    def decide(self, signal: torch.Tensor) -> torch.Tensor:
        """Return the mask that the signal stands for, as it changes while denoising: bool, or the number of the class."""
        if self.classes.exclusive and self.channels > 1:
            return signal.argmax(1, keepdim=True)
        return signal > (self.low + self.high) / 2


@dataclass(frozen=True)
class SignedDistance(Coding):
    """The signed distance to the border of each class, cut at `limit` px and divided by it."""

    limit: float

    def encode(self, masks: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Return the signal, as `Coding.encode`. Distances are those to the nearest pixel of a known other class."""
        return signed_distance(masks, self.limit, valid) / self.limit

    def probabilities(self, signal: torch.Tensor) -> torch.Tensor:
        """Return a probability that rises from 0 to 1 over the pixel that the border lies in.

        Of exclusive classes, a class is measured by half its lead over the best other one, which is its distance to the
        border between both.
        """
        distance = signal * self.limit
        if not self.classes.exclusive or self.channels == 1:
            return (distance + 0.5).clamp(0, 1)
        best = distance.topk(2, dim=1).values
        others = torch.where(distance == best[:, :1], best[:, 1:], best[:, :1])
        return _normalise(((distance - others) / 2 + 0.5).clamp(0, 1), signal)


@dataclass(frozen=True)
class Bits(Coding):
    """The binary digits of the number of a class, the lowest first; the background is 0."""

    @property
    def channels(self) -> int:
        """The number of digits."""
        return max(1, self.classes.count.bit_length())

    def units(self, masks: torch.Tensor) -> torch.Tensor:
        """Return the digits, 0 or 1."""
        if self.classes.count == 1:
            return masks
        number = masks.argmax(1, keepdim=True)
        return torch.cat([number >> digit & 1 for digit in range(self.channels)], dim=1).float()

    def probabilities(self, signal: torch.Tensor) -> torch.Tensor:
        """Return the product of the probabilities of a class's digits, normalised over the classes that exist."""
        ones = ((signal - self.low) / (self.high - self.low)).clamp(0, 1)
        if self.classes.count == 1:
            return ones
        products = []
        for number in range(self.classes.count + 1):
            digits = [ones[:, k] if number >> k & 1 else 1 - ones[:, k] for k in range(self.channels)]
            products.append(torch.stack(digits).prod(0))
        return _normalise(torch.stack(products, dim=1), torch.stack(products, dim=1))

    def decide(self, signal: torch.Tensor) -> torch.Tensor:
        """Return the digits, bool."""
        return signal > (self.low + self.high) / 2


def make_coding(classes: Classes, diffusion: Diffusion) -> Coding:
    """Return the configured coding of the classes."""
    low, high = RANGES[diffusion.coding]
    if diffusion.coding == "sdf":
        return SignedDistance(classes, low, high, diffusion.distance_limit)
    return (Bits if diffusion.coding == "bits" else Coding)(classes, low, high)


def _normalise(scores: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """Divide scores by their sum over the classes; where all are 0, the class of the greatest signal has 1."""
    total = scores.sum(1, keepdim=True)
    best = torch.zeros_like(scores).scatter_(1, signal.argmax(1, keepdim=True), 1.0)
    return torch.where(total > 0, scores / total.clamp(min=1e-12), best)
