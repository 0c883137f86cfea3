"""Densities p(t) of the training timesteps, t in [0, 1], sampled by inverting their distribution functions."""

import torch
from torch import nn

from diffseg.config import Diffusion
from diffseg.diffusion import profile


def sample_stratified(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw `count` uniform timesteps, one in each of as many equal intervals, in random order, float64.

    Each is uniform, and together they cover [0, 1] evenly, which lowers the variance of the batch's loss (Kingma et al.,
    2021, App. I.1).
    """
    device = generator.device
    order = torch.randperm(count, generator=generator, device=device)
    return (order + torch.rand(count, generator=generator, device=device, dtype=torch.float64)) / count


def sample_independent(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw `count` independent uniform timesteps, float64."""
    return torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)


def round_up_to_chain(t: torch.Tensor, steps: int) -> torch.Tensor:
    """Move each t up to the next of the points 1/steps, 2/steps, … 1 of a published chain."""
    return ((t * steps).floor() + 1).clamp(max=steps) / steps


class LevelMeans(nn.Module):
    """Means of values of a training, in bins of t. The parts of a batch record them, and the whole batch updates the means."""

    BINS = 100

    def __init__(self) -> None:
        super().__init__()
        self._recorded: list[tuple[torch.Tensor, torch.Tensor]] = []

    def record(self, t: torch.Tensor, values: torch.Tensor) -> None:
        """Keep the values [B] at t [B] of a part of a batch, until the whole batch is done."""
        self._recorded.append((t, values))

    def take_recorded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (t, values) of all recorded parts, in order, and clear the records."""
        t, values = (torch.cat(parts) for parts in zip(*self._recorded, strict=True))
        self._recorded.clear()
        return t, values

    def discard_recorded(self) -> None:
        """Clear the records of a batch that will be computed again."""
        self._recorded.clear()

    def bin_means(self, t: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (mean of the values [B] whose t [B] lie in it, their number) of each bin, [BINS]. Empty bins have mean 0."""
        inside = bin_of(t, self.BINS)[:, None] == torch.arange(self.BINS, device=t.device)  # sums in a fixed order
        counts = inside.sum(0)
        return (inside * values.double()[:, None]).sum(0) / counts.clamp(min=1), counts

    def update(self, t: torch.Tensor, values: torch.Tensor, decay: float) -> None:
        """Move the means towards the values [B] at t [B] of a whole batch."""
        raise NotImplementedError


class AdaptiveDensity(LevelMeans):
    """p(t) proportional to a moving average of the loss, in bins of t (Kingma & Gao, 2023).

    p(t) dt = p(λ) dλ, so bins of t are equivalent to the paper's bins of λ. The average is a buffer of the network, and so
    part of its checkpoints.
    """

    average: torch.Tensor

    def __init__(self) -> None:
        """Start from equal averages."""
        super().__init__()
        self.register_buffer("average", torch.ones(self.BINS, dtype=torch.float64))

    def bin_probabilities(self, mixing: float) -> torch.Tensor:
        """Return the probability of each bin, [BINS]. The share `mixing` of it is uniform."""
        return torch.lerp(self.average / self.average.sum(), torch.full_like(self.average, 1 / self.BINS), mixing)

    @torch.no_grad()
    def update(self, t: torch.Tensor, values: torch.Tensor, decay: float) -> None:
        """Move the average of each bin towards the mean of the losses [B] whose t [B] lie in it. Empty bins stay."""
        means, counts = self.bin_means(t, values)
        self.average.copy_(torch.where(counts > 0, torch.lerp(means, self.average, decay), self.average))


def sample_timesteps(
    count: int, diffusion: Diffusion, generator: torch.Generator, learned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Draw timesteps from the configured density. All densities but "independent" are stratified.

    Args:
        count: The number of timesteps.
        diffusion: The configuration.
        generator: The source of the random draws, on the device of the timesteps.
        learned: The probability of equal bins of t with density "adaptive" or "online"; None for other densities.

    Returns:
        (t [count], p(t) [count]), float64. p is None if it is 1 everywhere.
    """
    if diffusion.density == "independent":
        return sample_independent(count, generator), None
    u = sample_stratified(count, generator)
    if diffusion.density == "uniform":
        return u, None
    if learned is not None:
        return invert_distribution(learned, u)
    return invert_distribution(profile.bin_probabilities(diffusion, generator.device), u)


def invert_distribution(probabilities: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (t, p(t)), each [N], where the distribution function of t equals u [N].

    probabilities [BINS] are those of equal bins of [0, 1]. p is constant in a bin.
    """
    ends = probabilities.cumsum(0)
    ends = ends / ends[-1]
    place = torch.searchsorted(ends, u, right=True).clamp(max=len(probabilities) - 1)
    share = ((u - ends[place]) / probabilities[place] + 1).clamp(0, 1)
    return (place + share) / len(probabilities), probabilities[place] * len(probabilities)


def timestep_density(t: torch.Tensor, diffusion: Diffusion, learned: torch.Tensor | None = None) -> torch.Tensor:
    """Return the factor by which the density changes the weight of t: p(t), or 1 where the loss is divided by p(t).

    learned: as of `sample_timesteps`.
    """
    if diffusion.density not in ("profile", "online") or diffusion.unbiased:
        return torch.ones_like(t)
    probabilities = profile.bin_probabilities(diffusion, t.device) if learned is None else learned
    return probabilities[bin_of(t, len(probabilities))] * len(probabilities)


def bin_of(t: torch.Tensor, bins: int) -> torch.Tensor:
    """Return the number of the equal bin of [0, 1] that each t lies in."""
    return (t * bins).long().clamp(max=bins - 1)
