"""Sampling grids: the times at which a sampler evaluates the network.

A grid is `grid(steps, log_snr, curve) -> times`: [steps + 1] times, float64, falling from exactly 1 (noise) to exactly 0
(clean). `log_snr(t)` is the noise schedule, and `curve` knots [N, 2] of (log-SNR, weight), rising in the log-SNR, for the
grids that are made from one. Grids need no training: trials that differ only in theirs share one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from diffseg.diffusion.registry import register
from diffseg.diffusion.schedules import INSIDE

LogSNR = Callable[[torch.Tensor], torch.Tensor]
Grid = Callable[[int, LogSNR, np.ndarray], torch.Tensor]
GRIDS: dict[str, Grid] = {}
RHO, SIGMA_MIN = 7, 0.002  # of EDM's grid
FINE = 4001  # log-SNRs at which a curve is integrated
PLACES = 401  # log-SNRs among which the grid of least loss is chosen, or twice its steps if these are more


@register(GRIDS, "uniform")
def uniform(steps: int, log_snr: LogSNR, curve: np.ndarray) -> torch.Tensor:
    """Return times that are equally spaced in t."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


@register(GRIDS, "log-snr")
def equal_levels(steps: int, log_snr: LogSNR, curve: np.ndarray) -> torch.Tensor:
    """Return times whose log-SNRs are equally spaced (Lu et al., 2022)."""
    return _times_of(np.linspace(*_ends(log_snr), steps + 1)[1:-1], log_snr)


@register(GRIDS, "edm")
def edm(steps: int, log_snr: LogSNR, curve: np.ndarray) -> torch.Tensor:
    """Return times at which (σ/α)^(1/7) falls in equal steps to that of 0.002, from which the last step goes to t = 0.

    (Karras et al., 2022, Eq. 5, whose σ is σ/α here)
    """
    most, least = np.exp(-np.array(_ends(log_snr)) / 2)
    least = max(SIGMA_MIN, least * 1.0001)  # above the clean end, where the last step goes
    roots = np.linspace(most ** (1 / RHO), least ** (1 / RHO), max(steps, 2))[1:steps]
    return _times_of(-2 * RHO * np.log(roots), log_snr)


@register(GRIDS, "curve", "entropic")
def equal_areas(steps: int, log_snr: LogSNR, curve: np.ndarray) -> torch.Tensor:
    """Return times between whose log-SNRs the areas under the curve are equal.

    "entropic": the curve is SNR · mmse, so that every step decides equal information (Stancevic et al., 2025).
    """
    levels = np.linspace(*_ends(log_snr), FINE)
    heights = np.interp(levels, *curve.T)
    area = np.concatenate([[0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    if not area[-1]:  # the curve lies outside of the schedule
        return equal_levels(steps, log_snr, curve)
    rising = np.flatnonzero(np.diff(area, prepend=-1) > 0)
    return _times_of(np.interp(np.arange(1, steps) / steps * area[-1], area[rising], levels[rising]), log_snr)


@register(GRIDS, "least-kl")
def least_kl(steps: int, log_snr: LogSNR, curve: np.ndarray) -> torch.Tensor:
    """Return the times that lose least by discretisation; the curve is the squared error of x̂0.

    A step from λ_t to λ_s that keeps x̂0(λ_t) loses ½ ∫ SNR E‖x̂0(λ) − x̂0(λ_t)‖² dλ of divergence at most (Sabour et al.,
    2024, Theorem 3.1). Ideal estimates are a martingale, so that the expectation is mmse(λ_t) − mmse(λ), and the least sum
    over all grids is found by dynamic programming (Watson et al., 2021).
    """
    places = np.linspace(*_ends(log_snr), max(PLACES, 2 * steps + 1))
    error = np.minimum.accumulate(np.interp(places, *curve.T))
    error = error - error[-1]  # what is left at the clean end is the network's limit, not the noise's effect
    snr = np.exp(places)
    area, lost = (_cumulate(values, places) for values in (snr, snr * error))
    loss = np.triu(error[:, None] * (area - area[:, None]) - (lost - lost[:, None]))  # of one step between two places
    loss[np.tril_indices(len(places))] = np.inf
    ahead, choices = loss[:, -1], []  # the loss from each place to the last, by the number of steps
    for _ in range(steps - 1):
        total = loss + ahead
        choices.append(total.argmin(1))
        ahead = total.min(1)
    chosen = [0]
    for choice in reversed(choices):
        chosen.append(int(choice[chosen[-1]]))
    return _times_of(places[chosen[1:]], log_snr)


def sampling_times(
    steps: int,
    log_snr: LogSNR,
    device: torch.device | str = "cpu",
    grid: str = "uniform",
    curve: Any = (),
) -> torch.Tensor:
    """Return the times of a grid from GRIDS: [steps + 1], float64, falling from exactly 1 to exactly 0.

    Args:
        steps: The number of steps.
        log_snr: The noise schedule.
        device: Where the times are wanted.
        grid: A name in GRIDS.
        curve: The knots (log-SNR, weight) of a grid that is made from a curve.
    """
    return GRIDS[grid](steps, log_snr, np.array(curve, dtype=float).reshape(-1, 2)).to(device)


def _times_of(levels: np.ndarray, log_snr: LogSNR) -> torch.Tensor:
    """Return the times 1, those of the log-SNRs between the ends, and 0."""
    inner = find_times(torch.from_numpy(levels), log_snr)
    return torch.cat([torch.ones(1), inner, torch.zeros(1)]).double()


def find_times(levels: torch.Tensor, log_snr: LogSNR) -> torch.Tensor:
    """Return the times [N] of log-SNRs [N] by bisection, float64."""
    low, high = torch.zeros_like(levels, dtype=torch.float64), torch.ones_like(levels, dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        above = log_snr(middle) > levels
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2


def _ends(log_snr: LogSNR) -> tuple[float, float]:
    """Return the log-SNRs of the noisy and the clean end, as far as t can tell them from others."""
    first, last = log_snr(torch.tensor([1 - INSIDE, INSIDE], dtype=torch.float64)).tolist()
    return first, last


def _cumulate(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return half of the integral of values from the first place to each."""
    parts = (values[1:] + values[:-1]) / 4 * np.diff(places)
    return np.concatenate([[0], np.cumsum(parts)])
