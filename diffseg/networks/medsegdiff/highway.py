"""MedSegDiff's second network: a plain U-Net beside the diffusion U-Net that segments the image."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.networks.medsegdiff.ffparser import FFParser

MAX_WIDTH = 480  # largest number of channels, as nnU-Net caps it


class Highway(nn.Module):
    """A plain 2-D U-Net (nnU-Net's first generation): batch normalisation, leaky ReLU, max pooling, bilinear upsampling.

    gated: channels of the diffusion U-Net's features that gate the first stages (v1). The first of them has `size` px, and
    each other half of the one before. masks: the channels of the mask.
    """

    PUBLISHED = {
        "encoder": "conv_blocks_context",
        "decoder": "conv_blocks_localization",
        "head": "seg_outputs.0",
        "features": "conv_trans_blocks_a",
        "parsers": "ffparser",
        "spaces": "conv_trans_blocks_b",
    }

    def __init__(
        self, in_channels: int, width: int, pools: int, gated: Sequence[int] = (), size: int = 0, masks: int = 1
    ):
        super().__init__()
        widths = [min(width * 2**depth, MAX_WIDTH) for depth in range(pools + 1)]
        self.lowest = widths[-2]
        self.encoder = nn.ModuleList()
        for into, out in itertools.pairwise([in_channels, *widths[:-1]]):
            self.encoder.append(ConvBlocks(ConvBlock(into, out, 0.5), ConvBlock(out, out, 0.5)))
        bottom = ConvBlock(widths[-2], widths[-1], 0.5), ConvBlock(widths[-1], self.lowest, 0.5)
        self.encoder.append(nn.Sequential(*(ConvBlocks(block) for block in bottom)))
        self.decoder = nn.ModuleList()
        for depth in reversed(range(pools)):
            blocks = ConvBlock(2 * widths[depth], widths[depth]), ConvBlock(widths[depth], widths[max(0, depth - 1)])
            self.decoder.append(nn.Sequential(*(ConvBlocks(block) for block in blocks)))
        self.head = nn.Conv2d(width, masks, 1, bias=False)
        scaled = widths[: len(gated)]
        self.features = nn.ModuleList(nn.Conv2d(into, out, 1) for into, out in zip(gated, scaled, strict=True))
        self.parsers = nn.ModuleList(FFParser(out, size // 2**depth) for depth, out in enumerate(scaled))
        self.spaces = nn.ModuleList(nn.Conv2d(out, 1, 1) for out in scaled)

    def forward(
        self, image: torch.Tensor, gates: Sequence[torch.Tensor] = ()
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """Return (mask [B, C, H, W] in [0, 1], the decoder's maps from small to large, the lowest features).

        gates: the diffusion U-Net's features for each gated stage, at the size of the stage's pooled output.
        """
        x, skips, maps = image, [], []
        *stages, bottom = self.encoder
        for depth, stage in enumerate(stages):
            x = stage(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
            if depth < len(self.features):
                x = self._gate(x, gates[depth], depth)
        x = lowest = bottom(x)
        for stage in self.decoder:
            x = stage(torch.cat([upsample(x, 2), skips.pop()], dim=1))
            maps.append(x)
        return self.head(x).sigmoid(), maps, lowest

    def _gate(self, x: torch.Tensor, gate: torch.Tensor, depth: int) -> torch.Tensor:
        """Scale x by a spatial map and by the channel means of the filtered gate."""
        h = self.parsers[depth](self.features[depth](gate))
        found: torch.Tensor = x * self.spaces[depth](h) * h.mean((2, 3), keepdim=True)
        return found


def upsample(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Interpolate x bilinearly to [B, C, factor · H, factor · W]."""
    if not torch.compiler.is_compiling():
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    return _stretch(_stretch(x.float(), 2, factor), 3, factor).to(x.dtype)


def _stretch(x: torch.Tensor, dim: int, factor: int) -> torch.Tensor:
    """Interpolate along one dimension by weighted means of neighbours.

    The backward pass of torch's interpolate compiles to a slow scatter.
    """
    length = x.shape[dim]
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, length - 1)], dim)
    after = torch.cat([x.narrow(dim, 1, length - 1), x.narrow(dim, length - 1, 1)], dim)
    places = [(index + 0.5) / factor - 0.5 for index in range(factor)]  # new positions, relative to that of x
    means = [(1 - abs(place)) * x + abs(place) * (before if place < 0 else after) for place in places]
    return torch.stack(means, dim + 1).flatten(dim, dim + 1)


class ConvBlocks(nn.Module):
    """One or two ConvBlocks in a row, nested as in the published code."""

    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the blocks one after the other."""
        found: torch.Tensor = self.blocks(x)
        return found


class ConvBlock(nn.Module):
    """3 × 3 convolution, dropout of whole channels, batch normalisation, leaky ReLU. [B, C, H, W]."""

    PUBLISHED = {"norm": "instnorm"}
    COMPILED_ALONE = True

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, a=0.01)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.dropout = nn.Dropout2d(dropout)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return maps [B, out_channels, H, W]."""
        return F.leaky_relu(self.norm(self.dropout(self.conv(x))), 0.01)
