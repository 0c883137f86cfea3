"""The U-Net of the guided-diffusion family (Dhariwal & Nichol, 2021, App. A), which all published networks share."""

import math

import torch
from torch import nn

from diffseg.errors import ConfigError
from diffseg.networks.blocks import Attention, Downsample, ResBlock, Upsample, zero_init
from diffseg.networks.group_norm import norm
from diffseg.networks.unet_settings import UNetSettings


def timestep_embedding(t: torch.Tensor, width: int, longest: float = 10_000) -> torch.Tensor:
    """Return sinusoids [B, width] of timesteps [B], cosines first, with periods from 2π to 2π · longest."""
    half = width // 2
    frequencies = torch.exp(-math.log(longest) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Stage(nn.Sequential):
    """A sequence of convolutions, residual blocks, attention and resampling; the blocks are given the time embedding."""

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # takes time, too
        """Apply the parts one after the other. time: [B, time_channels]."""
        for part in self:
            x = part(x, time) if isinstance(part, ResBlock) else part(x)
        return x


class UNet(nn.Module):
    """Residual blocks, self-attention at chosen depths, additive time conditioning. Subclasses decide what goes in.

    A level of the encoder has `settings.blocks` residual blocks (one number for all levels, or one per level). That of
    the decoder has one more; each of them takes one skip. Self-attention follows every residual block at the
    downsampling factors `settings.attention`. middle: residual blocks at the bottom, with attention between them.
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

    def __init__(self, settings: UNetSettings, in_channels: int, out_channels: int, middle: int = 2):
        super().__init__()
        width, multipliers = settings.width, settings.multipliers
        self.in_channels, self.width, self.divisor = in_channels, width, 2 ** (len(multipliers) - 1)
        embedded = 4 * width
        blocks = (settings.blocks,) * len(multipliers) if isinstance(settings.blocks, int) else settings.blocks
        self.time = nn.Sequential(nn.Linear(width, embedded), nn.SiLU(), nn.Linear(embedded, embedded))

        def stage(into: int, out: int, depth: int) -> Stage:
            attention = [Attention(out, settings.heads)] if 2**depth in settings.attention else []
            return Stage(ResBlock(into, out, embedded, settings.dropout), *attention)

        self.encoder = nn.ModuleList([Stage(nn.Conv2d(in_channels, width, 3, padding=1))])
        now, skips = width, [width]
        for depth, multiplier in enumerate(multipliers):
            for _ in range(blocks[depth]):
                self.encoder.append(stage(now, multiplier * width, depth))
                skips.append(now := multiplier * width)
            if depth < len(multipliers) - 1:
                self.encoder.append(Stage(Downsample(now)))
                skips.append(now)

        parts: list[nn.Module] = []
        for index in range(middle):
            parts += [Attention(now, settings.heads)] if index else []
            parts.append(ResBlock(now, now, embedded, settings.dropout))
        self.middle = Stage(*parts)

        stages: list[Stage] = []
        for depth, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks[depth] + 1):
                stages.append(stage(now + skips.pop(), multiplier * width, depth))
                now = multiplier * width
            if depth:
                stages[-1].append(Upsample(now))
        self.decoder = nn.ModuleList(stages)

        self.norm = norm(now)
        self.head = zero_init(nn.Conv2d(now, out_channels, 3, padding=1))

    def embed(self, t: torch.Tensor) -> torch.Tensor:
        """Return the time embedding [B, 4 · width] of timesteps [B]."""
        found: torch.Tensor = self.time(timestep_embedding(t, self.width, self.LONGEST))
        return found

    def encode(self, x: torch.Tensor, time: torch.Tensor, added: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Return all skips, from the first convolution's output (plus `added`) to the last of the lowest level."""
        self._check(x)
        first, *stages = self.encoder
        x = first(x, time)
        skips = [x if added is None else x + added]
        for stage in stages:
            skips.append(stage(skips[-1], time))
        return skips

    def _check(self, x: torch.Tensor) -> None:
        """Raise ConfigError for channels or sizes that the convolutions would refuse less clearly."""
        if x.shape[1] != self.in_channels:
            raise ConfigError(
                f"{type(self).__name__} got {x.shape[1]} channels of mask and image together, but was built for "
                f"{self.in_channels}: set channels and image_channels as the data have them"
            )
        if x.shape[2] % self.divisor or x.shape[3] % self.divisor:
            raise ConfigError(
                f"{type(self).__name__} got images of {x.shape[2]} × {x.shape[3]} px, but both sides must be multiples of "
                f"{self.divisor}: pad or resize them"
            )

    def decode(self, x: torch.Tensor, skips: list[torch.Tensor], time: torch.Tensor) -> torch.Tensor:
        """Return the output [B, out_channels, H, W]. x: the input of the middle. skips: the encoder's."""
        skips = list(skips)
        x = self.middle(x, time)
        for stage in self.decoder:
            x = stage(torch.cat([x, skips.pop()], dim=1), time)
        found: torch.Tensor = self.head(self.norm(x, silu=True))
        return found
