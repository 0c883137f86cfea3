"""Sampling grids: the times at which a sampler evaluates the network.

A grid is `grid(steps, log_snr, device) -> times`: [steps + 1] times, float64, falling from exactly 1 (noise) to exactly 0
(clean). `log_snr(t)` is the noise schedule, for grids that are spaced in λ.
"""

from collections.abc import Callable

import torch

from diffseg.diffusion.registry import register

LogSNR = Callable[[torch.Tensor], torch.Tensor]
Grid = Callable[[int, LogSNR, torch.device | str], torch.Tensor]
GRIDS: dict[str, Grid] = {}


@register(GRIDS, "uniform")
def uniform(steps: int, log_snr: LogSNR, device: torch.device | str) -> torch.Tensor:
    """Return times that are equally spaced in t."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=device)


def sampling_times(
    steps: int, log_snr: LogSNR, device: torch.device | str = "cpu", grid: str = "uniform"
) -> torch.Tensor:
    """Return the [steps + 1] times of a grid from GRIDS."""
    return GRIDS[grid](steps, log_snr, device)
