"""The U-Net of the guided-diffusion family (Dhariwal & Nichol, 2021, App. A), which all published networks share.

Each class lists in `PUBLISHED` where the published code names a part otherwise (`published_names`).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.errors import ConfigError


def timestep_embedding(t: torch.Tensor, width: int, longest: float = 10_000) -> torch.Tensor:
    """[B] timesteps to [B, width] sinusoids, cosines first, with periods from 2π to 2π · longest."""
    half = width // 2
    frequencies = torch.exp(-math.log(longest) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that compiles to good loops on processors.

    torch's own is compiled to loops over a group's channels, of which these networks have one to four, an eighth of what
    the processor computes at once. This one sums over positions, all channels at once. [B, C, H, W].
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling() and x.device.type == "cpu":
            return self._by_channel(x.float()).to(x.dtype)
        return super().forward(x)

    def _by_channel(self, x: torch.Tensor) -> torch.Tensor:
        positions = x.shape[2] * x.shape[3]
        mean = self._over_groups(x.sum((2, 3)) / positions)
        # the mean is detached since the variance does not depend on it to first order, which saves its way back
        variance = self._over_groups((x - mean.detach()[:, :, None, None]).square().sum((2, 3)) / positions)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        shift = self.bias - mean * scale
        return x * scale[:, :, None, None] + shift[:, :, None, None]

    def _over_groups(self, x: torch.Tensor) -> torch.Tensor:
        """The mean over each group, for every channel. A product, since compiled sums would be put into the loops above."""
        size = x.shape[1] // self.num_groups
        if size == 1:
            return x
        group = torch.arange(x.shape[1], device=x.device) // size
        with torch.autocast(x.device.type, enabled=False):
            return x @ ((group[:, None] == group) / size).to(x.dtype)


def norm(channels: int) -> nn.GroupNorm:
    return GroupNorm(32, channels)


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

    PUBLISHED = {"out": "proj_out"}

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv1d(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, height, width = x.shape
        # channels go last, which the fused kernels of attention ask for: without, they are left out in silence
        qkv = _pointwise(self.qkv, self.norm(x).flatten(2).transpose(1, 2))
        q, k, v = qkv.view(b, height * width, self.heads, 3, c // self.heads).permute(3, 0, 2, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + _pointwise(self.out, h).transpose(1, 2).view(b, c, height, width)


def _pointwise(conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    """A 1 × 1 convolution of [B, L, C]."""
    return F.linear(x, conv.weight.squeeze(2), conv.bias)


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

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self._repeated(x))

    def _repeated(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            return F.interpolate(x, scale_factor=2, mode="nearest")
        b, c, height, width = x.shape  # the way back of interpolate is compiled to a slow scatter
        return x[:, :, :, None, :, None].expand(b, c, height, 2, width, 2).reshape(b, c, 2 * height, 2 * width)


class Stage(nn.Sequential):
    """A convolution, residual blocks, attention, resampling: those that are given, in that order."""

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        for part in self:
            x = part(x, time) if isinstance(part, ResBlock) else part(x)
        return x


class UNet(nn.Module):
    """Residual blocks, self-attention at chosen depths, additive time conditioning. What goes in is left to subclasses.

    A level of the encoder has `blocks` residual blocks (a number for all, or one a level), that of the decoder one more,
    each of which takes one skip. attention: the downsampling factors with self-attention after every residual block.
    middle: residual blocks at the bottom, with attention between them.
    """

    LONGEST = 10_000  # period of the time embedding, in 2π
    PUBLISHED = {
        "time": "time_embed",
        "encoder": "input_blocks",
        "middle": "middle_block",
        "decoder": "output_blocks",
        "norm": "out.0",
        "head": "out.2",
    }

    def __init__(self, in_channels, out_channels, width, multipliers, blocks, attention, heads, dropout, middle=2):
        super().__init__()
        self.width, self.divisor = width, 2 ** (len(multipliers) - 1)
        embedded = 4 * width
        blocks = (blocks,) * len(multipliers) if isinstance(blocks, int) else blocks
        self.time = nn.Sequential(nn.Linear(width, embedded), nn.SiLU(), nn.Linear(embedded, embedded))

        def stage(into: int, out: int, depth: int) -> Stage:
            attends = [Attention(out, heads)] if 2**depth in attention else []
            return Stage(ResBlock(into, out, embedded, dropout), *attends)

        self.encoder = nn.ModuleList([Stage(nn.Conv2d(in_channels, width, 3, padding=1))])
        now, skips = width, [width]
        for depth, multiplier in enumerate(multipliers):
            for _ in range(blocks[depth]):
                self.encoder.append(stage(now, multiplier * width, depth))
                skips.append(now := multiplier * width)
            if depth < len(multipliers) - 1:
                self.encoder.append(Stage(Downsample(now)))
                skips.append(now)

        parts = []
        for index in range(middle):
            parts += [Attention(now, heads)] if index else []
            parts.append(ResBlock(now, now, embedded, dropout))
        self.middle = Stage(*parts)

        self.decoder = nn.ModuleList()
        for depth, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks[depth] + 1):
                self.decoder.append(stage(now + skips.pop(), multiplier * width, depth))
                now = multiplier * width
            if depth:
                self.decoder[-1].append(Upsample(now))

        self.norm = norm(now)
        self.head = zero_init(nn.Conv2d(now, out_channels, 3, padding=1))

    def embed(self, t: torch.Tensor) -> torch.Tensor:
        """[B] timesteps to [B, 4 · width]."""
        return self.time(timestep_embedding(t, self.width, self.LONGEST))

    def encode(self, x: torch.Tensor, time: torch.Tensor, added: torch.Tensor | None = None) -> list[torch.Tensor]:
        """All skips, from the first convolution's output, to which `added` is added, to the lowest level's last."""
        self._check(x)
        first, *stages = self.encoder
        x = first(x, time)
        skips = [x if added is None else x + added]
        for stage in stages:
            skips.append(stage(skips[-1], time))
        return skips

    def _check(self, x: torch.Tensor) -> None:
        """Raises ConfigError for inputs that the convolutions would refuse in words of their own."""
        channels = self.encoder[0][0].in_channels
        if x.shape[1] != channels:
            raise ConfigError(
                f"{type(self).__name__} got {x.shape[1]} channels of mask and image together, but was built for {channels}: "
                "set channels and image_channels as the data have them"
            )
        if x.shape[2] % self.divisor or x.shape[3] % self.divisor:
            raise ConfigError(
                f"{type(self).__name__} got images of {x.shape[2]} × {x.shape[3]} px, but both sides must be multiples of "
                f"{self.divisor}: pad or resize them"
            )

    def decode(self, x: torch.Tensor, skips: list[torch.Tensor], time: torch.Tensor) -> torch.Tensor:
        """The output, from what enters the middle and the encoder's skips."""
        skips = list(skips)
        x = self.middle(x, time)
        for stage in self.decoder:
            x = stage(torch.cat([x, skips.pop()], dim=1), time)
        return self.head(F.silu(self.norm(x)))


def published_names(module: nn.Module) -> dict[str, str]:
    """The published state dict's key of each own key, parameters and buffers."""
    table = getattr(module, "PUBLISHED", {})
    own = [*dict(module.named_parameters(recurse=False)), *dict(module.named_buffers(recurse=False))]
    names = {key: table.get(key, key) for key in own}
    for child, part in module.named_children():
        prefix = table.get(child, child)
        names |= {f"{child}.{key}": f"{prefix}.{name}" for key, name in published_names(part).items()}
    return names
