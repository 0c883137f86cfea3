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


DENSITIES = {"uniform": uniform}
