"""Parts shared by the U-Nets of the guided-diffusion family (Dhariwal & Nichol, 2021, App. A).

Each class lists how its own parameter names map to the published ones in `PUBLISHED`.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def timestep_embedding(t: torch.Tensor, width: int) -> torch.Tensor:
    """[B] timesteps to [B, width] sinusoids, cosines first, with periods from 2π to 20000π."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


def zero_init(module: nn.Module) -> nn.Module:
    """So that a residual branch, or the head, starts as zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResBlock(nn.Module):
    """Two normalised 3 × 3 convolutions with the time embedding added in between, and a skip. [B, C, H, W]."""

    PUBLISHED = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "skip": "skip_connection",
    }

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, dropout: float):
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_channels, out_channels)
        self.norm2 = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(time))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.skip(x) + h


class Attention(nn.Module):
    """Self-attention over all positions, with a skip. Heads are split before q, k and v ("legacy" order). [B, C, H, W]."""

    PUBLISHED = {"norm": "norm", "qkv": "qkv", "out": "proj_out"}

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv1d(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm(x).flatten(2)).view(b, self.heads, 3, c // self.heads, height * width)
        q, k, v = qkv.transpose(3, 4).unbind(2)
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, height * width)
        return x + self.out(h).view(b, c, height, width)


class Downsample(nn.Module):
    """Halves height and width by a strided 3 × 3 convolution."""

    PUBLISHED = {"conv": "op"}

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Doubles height and width by repetition and a 3 × 3 convolution."""

    PUBLISHED = {"conv": "conv"}

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Stage(nn.Sequential):
    """A residual block, attention, resampling: those that are given, in that order."""

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        for part in self:
            x = part(x, time) if isinstance(part, ResBlock) else part(x)
        return x
