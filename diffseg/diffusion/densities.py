"""Densities of the training timesteps p(t), t in [0, 1]."""

import torch


def uniform(count: int, generator: torch.Generator) -> torch.Tensor:
    """[count] uniform timesteps, float64, stratified: one in each of `count` equal intervals, in random order.

    Each is uniform on its own, and together they cover [0, 1] evenly, which lowers the variance of the batch's loss
    (Kingma et al., 2021, App. I.1).
    """
    device = generator.device
    order = torch.randperm(count, generator=generator, device=device)
    return (order + torch.rand(count, generator=generator, device=device, dtype=torch.float64)) / count


def discrete(t: torch.Tensor, steps: int) -> torch.Tensor:
    """Each t moved up to the next of the points 1/steps, 2/steps, … 1 of a published chain."""
    return ((t * steps).floor() + 1).clamp(max=steps) / steps


DENSITIES = {"uniform": uniform}
