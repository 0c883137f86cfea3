"""Monte Carlo dropout (Gal & Ghahramani, 2016): a network that predicts with units dropped at random."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import NormalDist
from typing import Any

import torch
from torch import nn

from diffseg.experiments.protocol import NoiseDraws

Dropout = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d


@contextmanager
def keep_dropping(network: nn.Module, noise: NoiseDraws) -> Iterator[None]:
    """Let a network in evaluation mode drop units as in training, by the noise of the members that it predicts.

    Each row of a batch drops units of its own, which depend on its image and its member alone.
    """
    layers = find_dropout(network)
    hooks = [layer.register_forward_hook(partial(_drop, noise, k)) for k, layer in enumerate(layers, 1)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def find_dropout(network: nn.Module) -> list[Dropout]:
    """Return the layers of a network that drop units."""
    return [part for part in network.modules() if isinstance(part, Dropout) and part.p > 0]


def _drop(noise: NoiseDraws, k: int, layer: Dropout, _inputs: Any, x: torch.Tensor) -> torch.Tensor:
    """Return the output x [B, …] of the k-th layer with units dropped."""
    shape = x.shape[1:] if isinstance(layer, nn.Dropout) else x.shape[1:2]  # the others drop whole channels
    kept = noise.vectors(k, shape.numel()) > NormalDist().inv_cdf(layer.p)
    spread = kept.view(len(x), *shape, *[1] * (x.ndim - 1 - len(shape)))
    return x * spread / (1 - layer.p)
