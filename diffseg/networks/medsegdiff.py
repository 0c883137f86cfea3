"""MedSegDiff (Wu et al., 2022), both published forms: a diffusion U-Net beside a plain one that segments the image."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.networks.blocks import Downsample
from diffseg.networks.ensemdiff import EnsemDiff

MAX_WIDTH = 480  # of the plain U-Net, as nnU-Net caps it


class MedSegDiff(EnsemDiff):
    """The diffusion U-Net is EnsemDiff's; the plain one, `highway`, also gives a mask of its own, the calibration output.

    version "new" (the published code's default): two of the highway's decoder maps are added to the first features,
    detached, so that the highway learns from its own mask only. version "v1": the highway's encoder is gated by the
    features of the diffusion U-Net, filtered by FF-Parsers, and its lowest features are added to those of the other.
    Neither holds the attentive fusion of the paper (Eq. 3), which the published code never calls.

    Published for 256 px: width 128, multipliers (1, 1, 2, 2, 4, 4), attention at downsampling 16, two outputs. The
    published code runs at that width only, v1 at that size only; here any go (`size` is that of v1's FF-Parsers). The
    1 × 1 convolution that takes v1's lowest features to the diffusion U-Net is drawn anew in every forward pass of the
    published code, and never learnt; here it is a parameter, `embedding`.

    pools: the highway's downsamplings; one fewer than levels, as published, if None, and at least the 3 that anchors need.
    In E3 and E4 there is no highway and no calibration output: what is left is EnsemDiff's network.
    """

    PUBLISHED = EnsemDiff.PUBLISHED | {"highway": "hwm"}
    UNPUBLISHED = ("embedding",)  # parts that no published state dict holds

    def __init__(
        self,
        image_channels=3,
        version="new",
        width=128,
        multipliers=(1, 1, 2, 2, 4, 4),
        size=256,
        pools=None,
        **settings,
    ):
        super().__init__(image_channels=image_channels, width=width, multipliers=multipliers, **settings)
        self.version = version
        if not image_channels:
            return
        if version == "new":
            pools = pools or max(len(multipliers) - 1, 3)
            self.divisor = 2 ** max(pools, len(multipliers) - 1)
            self.highway = Highway(image_channels, width // 4, pools)
        else:
            gated = [width * multiplier for multiplier in multipliers[:-2]]
            self.highway = Highway(image_channels, width // 4, len(multipliers) - 1, gated, size // 2)
            self.embedding = nn.Conv2d(self.highway.lowest, width * multipliers[-1], 1)

    def of_image(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What sampling needs but once: the new version's mask [B, 1, H, W] and anchors [B, width, H, W]; nothing of v1."""
        if self.version != "new":
            return ()
        mask, (*_, coarse, fine, _), _ = self.highway(image)
        fine, coarse = upsampled(fine, 2), upsampled(coarse, 4)
        return mask, torch.cat([fine, fine, coarse], dim=1).detach()

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        image: torch.Tensor | None = None,
        known: tuple[torch.Tensor, ...] = (),
        calibration: bool = False,
    ):
        """x_t [B, channels, H, W], t [B] in steps (0 … T − 1), image [B, image_channels, H, W] or None, known: `of_image` of
        it, where that is known already.

        With calibration, a pair: the output and the highway's mask [B, 1, H, W] in [0, 1], or None without an image.
        """
        output, mask = (super().forward(x_t, t), None) if image is None else self._conditioned(x_t, t, image, known)
        return (output, mask) if calibration else output

    def _conditioned(self, x_t, t, image, known):
        time, x = self.embed(t), torch.cat([image, x_t], dim=1)
        self._check(x)
        if self.version == "new":
            mask, anchors = known or self.of_image(image)
            skips = self.encode(x, time, anchors)
            return self.decode(skips[-1], skips, time), mask
        skips = self.encode(x, time)
        below = [skip for skip, stage in zip(skips, self.encoder, strict=True) if isinstance(stage[0], Downsample)]
        mask, _, lowest = self.highway(image, below)
        return self.decode(skips[-1] + self.embedding(lowest), skips, time), mask


class Highway(nn.Module):
    """A plain 2-D U-Net (nnU-Net's first generation): batch normalisation, leaky ReLU, max pooling, bilinear upsampling.

    gated: channels of the diffusion U-Net's features that gate its first stages (v1), at `size` px and half of it each.
    """

    PUBLISHED = {
        "encoder": "conv_blocks_context",
        "decoder": "conv_blocks_localization",
        "head": "seg_outputs.0",
        "features": "conv_trans_blocks_a",
        "parsers": "ffparser",
        "spaces": "conv_trans_blocks_b",
    }

    def __init__(self, in_channels: int, width: int, pools: int, gated: list[int] = (), size: int = 0):
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
        self.head = nn.Conv2d(width, 1, 1, bias=False)
        scaled = widths[: len(gated)]
        self.features = nn.ModuleList(nn.Conv2d(into, out, 1) for into, out in zip(gated, scaled, strict=True))
        self.parsers = nn.ModuleList(FFParser(out, size // 2**depth) for depth, out in enumerate(scaled))
        self.spaces = nn.ModuleList(nn.Conv2d(out, 1, 1) for out in scaled)

    def forward(self, image: torch.Tensor, below: list[torch.Tensor] = ()):
        """(mask [B, 1, H, W] in [0, 1], the decoder's maps from small to large, the lowest features).

        below: the diffusion U-Net's features that gate the stages, at the size that a stage leaves.
        """
        x, skips, maps = image, [], []
        *stages, bottom = self.encoder
        for depth, stage in enumerate(stages):
            x = stage(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
            if depth < len(self.features):
                x = self._gated(x, below[depth], depth)
        x = lowest = bottom(x)
        for stage in self.decoder:
            x = stage(torch.cat([upsampled(x, 2), skips.pop()], dim=1))
            maps.append(x)
        return self.head(x).sigmoid(), maps, lowest

    def _gated(self, x: torch.Tensor, below: torch.Tensor, depth: int) -> torch.Tensor:
        """Scaled by a spatial map and the channel means of the filtered features."""
        h = self.parsers[depth](self.features[depth](below))
        return x * self.spaces[depth](h) * h.mean((2, 3), keepdim=True)


def upsampled(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Bilinearly: [B, C, factor · H, factor · W]."""
    if not torch.compiler.is_compiling():
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    return _stretched(_stretched(x.float(), 2, factor), 3, factor).to(x.dtype)


def _stretched(x: torch.Tensor, dim: int, factor: int) -> torch.Tensor:
    """As weighted means of neighbours, since the way back of interpolate is compiled to a slow scatter."""
    length = x.shape[dim]
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, length - 1)], dim)
    after = torch.cat([x.narrow(dim, 1, length - 1), x.narrow(dim, length - 1, 1)], dim)
    places = [(index + 0.5) / factor - 0.5 for index in range(factor)]  # of the new positions, from that of x
    means = [(1 - abs(place)) * x + abs(place) * (before if place < 0 else after) for place in places]
    return torch.stack(means, dim + 1).flatten(dim, dim + 1)


class ConvBlocks(nn.Module):
    """One or two ConvBlocks in a row, named as the published code nests them."""

    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


class ConvBlock(nn.Module):
    """3 × 3 convolution, dropout of whole channels, batch normalisation, leaky ReLU."""

    PUBLISHED = {"norm": "instnorm"}

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, a=0.01)
        nn.init.zeros_(self.conv.bias)
        self.dropout = nn.Dropout2d(dropout)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(self.norm(self.dropout(self.conv(x))), 0.01)


class FFParser(nn.Module):
    """A learnt filter in frequency space (MedSegDiff, Eq. 4–6), in float32 also under autocast. [B, C, H, W].

    The filter is learnt on the frequencies of size × size maps; for maps of other sizes it is interpolated between them.
    """

    PUBLISHED = {"weight": "complex_weight"}

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(channels, size, size // 2 + 1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft2(x.float(), norm="ortho") * self._filter(*x.shape[-2:])
        return torch.fft.irfft2(spectrum, s=x.shape[-2:], norm="ortho")

    def _filter(self, height: int, width: int) -> torch.Tensor:
        weight, size = self.weight.float(), self.weight.shape[1]
        if (height, width) != (size, size):
            frequencies = torch.fft.fftfreq(height, device=weight.device) * size
            weight = _interpolated(weight, frequencies % size, dim=1)
            frequencies = torch.fft.rfftfreq(width, device=weight.device) * size
            weight = _interpolated(weight, frequencies.clamp(max=size // 2), dim=2)
        return torch.view_as_complex(weight.contiguous())


def _interpolated(x: torch.Tensor, positions: torch.Tensor, dim: int) -> torch.Tensor:
    """x at fractional positions along a dimension, which goes round."""
    below = positions.floor()
    share = (positions - below).view([-1 if d == dim else 1 for d in range(x.dim())])
    first = below.long() % x.shape[dim]
    second = (first + 1) % x.shape[dim]
    return torch.lerp(x.index_select(dim, first), x.index_select(dim, second), share)
