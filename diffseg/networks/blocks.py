"""The layers of the guided-diffusion family (Dhariwal & Nichol, 2021, App. A), all on maps [B, C, H, W].

Each class lists in `PUBLISHED` where the published code names a part otherwise (`published.published_names`). Classes with
`COMPILED_ALONE` are what `torch.compile` is given on GPUs; the rest of a network runs as it is.
"""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.networks.group_norm import norm

M = TypeVar("M", bound=nn.Module)


def zero_init(module: M) -> M:
    """Set all parameters to zero, so that a residual branch or the head starts as zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResBlock(nn.Module):
    """Two normalised 3 × 3 convolutions with the time embedding added in between, and a skip."""

    PUBLISHED = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "skip": "skip_connection",
    }
    COMPILED_ALONE = True

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
        """Return maps [B, out_channels, H, W] of x and the time embedding [B, time_channels]."""
        h = self.conv1(self.norm1(x, silu=True))
        h = h + self.time(F.silu(time))[:, :, None, None]
        h = self.conv2(self.dropout(self.norm2(h, silu=True)))
        found: torch.Tensor = self.skip(x) + h
        return found


class Attention(nn.Module):
    """Self-attention over all positions, with a skip. Heads are split before q, k and v ("legacy" order)."""

    PUBLISHED = {"out": "proj_out"}
    COMPILED_ALONE = True

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv1d(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x plus its attention over all positions."""
        b, c, height, width = x.shape
        # Channels go last: torch's fused attention kernels need it, and would silently not be used.
        qkv = _convolve_pointwise(self.qkv, self.norm(x).flatten(2).transpose(1, 2))
        q, k, v = qkv.view(b, height * width, self.heads, 3, c // self.heads).permute(3, 0, 2, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + _convolve_pointwise(self.out, h).transpose(1, 2).view(b, c, height, width)


def _convolve_pointwise(conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    """Apply a convolution of width 1 to x [B, L, C]."""
    return F.linear(x, conv.weight.squeeze(2), conv.bias)


class Downsample(nn.Module):
    """Strided 3 × 3 convolution that halves height and width."""

    PUBLISHED = {"conv": "op"}

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return maps [B, C, H/2, W/2]."""
        found: torch.Tensor = self.conv(x)
        return found


class Upsample(nn.Module):
    """Repetition of pixels, which doubles height and width, and a 3 × 3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return maps [B, C, 2H, 2W]."""
        found: torch.Tensor = self.conv(self._repeat(x))
        return found

    def _repeat(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            return F.interpolate(x, scale_factor=2, mode="nearest")
        b, c, height, width = x.shape  # the backward pass of interpolate compiles to a slow scatter
        return x[:, :, :, None, :, None].expand(b, c, height, 2, width, 2).reshape(b, c, 2 * height, 2 * width)
