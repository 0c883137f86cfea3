"""Densities of the training timesteps p(t), t in [0, 1], drawn by the inverse of their distribution at uniform numbers."""

import torch
from torch import nn

from diffseg.config import Diffusion
from diffseg.diffusion import profile


def uniform(count: int, generator: torch.Generator) -> torch.Tensor:
    """[count] uniform timesteps, float64, stratified: one in each of `count` equal intervals, in random order.

    Each is uniform on its own, and together they cover [0, 1] evenly, which lowers the variance of the batch's loss
    (Kingma et al., 2021, App. I.1).
    """
    device = generator.device
    order = torch.randperm(count, generator=generator, device=device)
    return (order + torch.rand(count, generator=generator, device=device, dtype=torch.float64)) / count


def independent(count: int, generator: torch.Generator) -> torch.Tensor:
    """[count] uniform timesteps, float64, not stratified."""
    return torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)


def discrete(t: torch.Tensor, steps: int) -> torch.Tensor:
    """Each t moved up to the next of the points 1/steps, 2/steps, … 1 of a published chain."""
    return ((t * steps).floor() + 1).clamp(max=steps) / steps


class Adaptive(nn.Module):
    """p(t) in proportion to a moving average of the loss, in bins of t (Kingma & Gao, 2023).

    p(t) dt = p(λ) dλ, so bins of t do what the paper's bins of λ do. Its state is a part of the network, and so of the
    checkpoint.
    """

    BINS = 100

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.ones(self.BINS, dtype=torch.float64))
        self._noted: list[tuple[torch.Tensor, torch.Tensor]] = []

    def masses(self, mixing: float) -> torch.Tensor:
        """[BINS] shares of the training timesteps, of which a share is uniform."""
        return torch.lerp(self.average / self.average.sum(), torch.full_like(self.average, 1 / self.BINS), mixing)

    def note(self, t: torch.Tensor, losses: torch.Tensor) -> None:
        """Keep the losses [B] at t [B] of a part of a batch until all of it is done."""
        self._noted.append((t, losses))

    def noted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(t, losses) of all parts, in order; they are forgotten then."""
        t, losses = (torch.cat(parts) for parts in zip(*self._noted, strict=True))
        self._noted.clear()
        return t, losses

    def forget(self) -> None:
        """What was noted is to be done again."""
        self._noted.clear()

    @torch.no_grad()
    def update(self, t: torch.Tensor, losses: torch.Tensor, decay: float) -> None:
        """Move the averages of the bins that t [B] fall into towards the means of the losses [B] there."""
        inside = _bin(t, self.BINS)[:, None] == torch.arange(self.BINS, device=t.device)  # sums in a fixed order
        counts = inside.sum(0)
        means = (inside * losses.double()[:, None]).sum(0) / counts.clamp(min=1)
        self.average.copy_(torch.where(counts > 0, torch.lerp(means, self.average, decay), self.average))


def timesteps(
    count: int, diffusion: Diffusion, generator: torch.Generator, adaptive: Adaptive | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(t [count], p(t) [count]), float64; p is None where it is 1. All stratified but the independent ones."""
    if diffusion.density == "independent":
        return independent(count, generator), None
    t = uniform(count, generator)
    if diffusion.density == "uniform":
        return t, None
    masses = adaptive.masses(diffusion.mixing) if adaptive else profile.masses(diffusion, generator.device)
    return inverse(masses, t)


def inverse(masses: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(t, p(t)) at which the distribution of equal bins with such shares is u: piecewise linear, p constant in a bin."""
    ends = masses.cumsum(0)
    ends = ends / ends[-1]
    place = torch.searchsorted(ends, u, right=True).clamp(max=len(masses) - 1)
    share = ((u - ends[place]) / masses[place] + 1).clamp(0, 1)
    return (place + share) / len(masses), masses[place] * len(masses)


def density(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
    """How much t counts beside the loss's weight: p(t), or 1 where the loss is divided by it."""
    if diffusion.density != "profile" or diffusion.unbiased:
        return torch.ones_like(t)
    masses = profile.masses(diffusion, t.device)
    return masses[_bin(t, len(masses))] * len(masses)


def _bin(t: torch.Tensor, bins: int) -> torch.Tensor:
    return (t * bins).long().clamp(max=bins - 1)
