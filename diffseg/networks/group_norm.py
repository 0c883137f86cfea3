"""Group normalisation that is fast on CPUs and GPUs, with the activation that follows it."""

from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import nn


class GroupNorm(nn.GroupNorm):
    """Group normalisation, and SiLU where it is asked for.

    On GPUs maps [B, C, H, W] go through kernels of ours, which keep the layout channels-last. For CPUs, torch's own compiles
    to loops over the channels of a group. These networks have one to four of them, an eighth of what a CPU computes at once.
    Ours sums over positions, for all channels at once.
    """

    def forward(self, x: torch.Tensor, silu: bool = False) -> torch.Tensor:
        """Normalise x over its groups of channels, and activate it if `silu`."""
        if not torch.compiler.is_compiling() and x.dim() == 4 and _has_kernels(x.device.type):
            return self._run_kernels(x, silu)
        if torch.compiler.is_compiling() and x.device.type == "cpu":
            found = self._normalise_channels(x.float()).to(x.dtype)
        else:
            found = super().forward(x)
        return F.silu(found) if silu else found

    def _run_kernels(self, x: torch.Tensor, silu: bool) -> torch.Tensor:
        """Run the kernels. Under autocast the result is of its type, since a convolution or a product follows."""
        from diffseg.networks.group_norm_kernels import NormaliseGroups

        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        found: torch.Tensor = NormaliseGroups.apply(x, self.weight, self.bias, self.num_groups, self.eps, silu, dtype)
        return found

    def _normalise_channels(self, x: torch.Tensor) -> torch.Tensor:
        positions = x.shape[2] * x.shape[3]
        mean = self._average_groups(x.sum((2, 3)) / positions)
        # The variance does not depend on the mean to first order: detaching it saves its backward pass.
        variance = self._average_groups((x - mean.detach()[:, :, None, None]).square().sum((2, 3)) / positions)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        shift = self.bias - mean * scale
        return x * scale[:, :, None, None] + shift[:, :, None, None]

    def _average_groups(self, x: torch.Tensor) -> torch.Tensor:
        """Return each channel's mean over its group, [B, C] to [B, C].

        A matrix product, since the compiler would fuse sums into the loops above.
        """
        size = x.shape[1] // self.num_groups
        if size == 1:
            return x
        group = torch.arange(x.shape[1], device=x.device) // size
        with torch.autocast(x.device.type, enabled=False):
            return x @ ((group[:, None] == group) / size).to(x.dtype)


@cache
def _has_kernels(device: str) -> bool:
    """Return whether our kernels run on a kind of device: on NVIDIA's GPUs, with Triton, which comes with torch on Linux."""
    return device == "cuda" and torch.version.cuda is not None and find_spec("triton") is not None


def norm(channels: int) -> GroupNorm:
    """Return the normalisation of the guided-diffusion family: 32 groups."""
    return GroupNorm(32, channels)
