"""Averages of the weights of any length, put together after the training (Karras et al., 2024, EDM2, Sec. 3).

A training keeps two averages with power functions as profiles, p(t) ∝ t^γ over the steps t so far, and now and then a copy of
both. The average of any other profile is a linear combination of the copies, whose coefficients make the combined profile
nearest to it in least squares. The length of a profile is σ_rel, its standard deviation as a share of the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

LENGTHS = (0.05, 0.10)  # σ_rel of the two averages that are kept
Weights = dict[str, torch.Tensor]  # parameters by name


@dataclass(frozen=True)
class Copy:
    """A power-function average as it was after a step."""

    step: int
    length: float  # σ_rel
    weights: Weights  # on the CPU


class PowerAverages:
    """The two averages of a training, and their copies so far."""

    def __init__(self, network: nn.Module, steps: int, copies: int):
        """Start before the first step. `copies` are made in equal distances, the last one after `steps` steps."""
        self.names = [name for name, _ in network.named_parameters()]
        self.averages = [[one.detach().clone() for one in network.parameters()] for _ in LENGTHS]
        self.due = {round(steps * number / copies) for number in range(1, copies + 1)}
        self.copies: list[Copy] = []

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the averages by the weights after a step (from 1): β = (1 − 1/step)^(γ + 1) of them is kept (Eq. 9)."""
        for length, average in zip(LENGTHS, self.averages, strict=True):
            kept = (1 - 1 / step) ** (exponent(length) + 1)
            torch._foreach_lerp_(average, list(network.parameters()), 1 - kept)
            if step in self.due:
                weights = {name: one.to("cpu", copy=True) for name, one in zip(self.names, average, strict=True)}
                self.copies.append(Copy(step, length, weights))

    def state_dict(self, ended: bool = False) -> dict[str, Any]:
        """Return the averages and copies for a checkpoint. The last copies of a training that has ended are its averages."""
        averages = {} if ended else {"averages": self.averages}
        return averages | {"copies": [vars(copy) for copy in self.copies]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the averages and copies to those of a checkpoint."""
        for own, saved in zip(self.averages, state.get("averages", ()), strict=False):
            torch._foreach_copy_(own, saved)
        self.copies = read_copies(state)


def read_copies(state: dict[str, Any]) -> list[Copy]:
    """Return the copies in a checkpoint, on the CPU."""
    return [
        Copy(one["step"], one["length"], {name: w.cpu() for name, w in one["weights"].items()})
        for one in state["copies"]
    ]


@torch.no_grad()
def load_average(network: nn.Module, copies: Sequence[Copy], length: float) -> None:
    """Set a network's parameters to the average of a length σ_rel. Its buffers stay."""
    found = combine(copies, length)
    for name, parameter in network.named_parameters():
        parameter.copy_(found[name])


def combine(copies: Sequence[Copy], length: float) -> Weights:
    """Return the average with a profile of this length σ_rel, up to the last copy's step."""
    steps, exponents = np.array([one.step for one in copies]), np.array([exponent(one.length) for one in copies])
    last, own = steps.max(), exponent(length)
    products = _inner(steps[:, None], exponents[:, None], steps[None, :], exponents[None, :])
    shares = np.linalg.lstsq(products, _inner(steps, exponents, last, own), rcond=None)[0]
    return {
        name: torch.stack([one.weights[name] * share for one, share in zip(copies, shares.tolist(), strict=True)]).sum(
            0
        )
        for name in copies[0].weights
    }


def exponent(length: float) -> float:
    """Return γ of the profile t^γ with the relative standard deviation σ_rel (Eq. 126)."""
    square = length**-2
    roots = np.roots([1, 7, 16 - square, 12 - square])
    return float(roots.real.max())


def _inner(t_a: np.ndarray, gamma_a: np.ndarray, t_b: np.ndarray | float, gamma_b: np.ndarray | float) -> np.ndarray:
    """Return the inner products of the profiles of averages after t_a and t_b steps (Eq. 141)."""
    ratio = np.where(t_a < t_b, (t_a / t_b) ** gamma_b, (t_b / t_a) ** gamma_a)
    product: np.ndarray = (gamma_a + 1) * (gamma_b + 1) * ratio / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))
    return product
