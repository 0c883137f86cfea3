"""SegDiff (Amit et al., 2021): a U-Net on the noisy mask, to whose first features those of an image encoder are added."""

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.networks.blocks import UNet


class SegDiff(UNet):
    """Published for MoNuSeg: width 128, multipliers (1, 1, 1, 2, 2, 4, 4), 3 blocks, 12 RRDB blocks, one output (ε).

    The image encoder works at full resolution and does not see t, so its features are those of all sampling steps.
    In E3 and E4 there is no image encoder.
    """

    PUBLISHED = UNet.PUBLISHED | {"image_encoder": "rrdb"}

    def __init__(
        self,
        channels=1,
        image_channels=3,
        out_channels=1,
        width=128,
        multipliers=(1, 1, 1, 2, 2, 4, 4),
        blocks=3,
        attention=(16, 32),
        heads=4,
        dropout=0.0,
        rrdb_blocks=12,
        rrdb_width=64,
        rrdb_growth=32,
    ):
        super().__init__(channels, out_channels, width, multipliers, blocks, attention, heads, dropout)
        if image_channels:
            self.image_encoder = RRDBNet(image_channels, width, rrdb_blocks, rrdb_width, rrdb_growth)

    def of_image(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        """The image encoder's features [B, width, H, W], which sampling needs but once."""
        return (self.image_encoder(image),)

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        image: torch.Tensor | None = None,
        known: tuple[torch.Tensor, ...] = (),
    ) -> torch.Tensor:
        """x_t [B, channels, H, W], t [B] in steps (0 … T − 1), image [B, image_channels, H, W] or None, known: `of_image` of
        it, where that is known already."""
        time = self.embed(t)
        (features,) = (None,) if image is None else known or self.of_image(image)
        skips = self.encode(x_t, time, features)
        return self.decode(skips[-1], skips, time)


class RRDBNet(nn.Module):
    """Residual-in-residual dense blocks (Wang et al., 2018, ESRGAN), without upsampling. [B, C, H, W], H and W kept."""

    PUBLISHED = {
        "first": "conv_first",
        "trunk": "RRDB_trunk",
        "last": "trunk_conv",
        "conv": "HRconv",
        "out": "conv_last",
    }

    def __init__(self, in_channels: int, out_channels: int, blocks: int, width: int, growth: int):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.trunk = nn.Sequential(*(RRDB(width, growth) for _ in range(blocks)))
        self.last = nn.Conv2d(width, width, 3, padding=1)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.first(image)
        x = x + self.last_rows(self.trunk(x))
        return self.out(F.leaky_relu(self.conv(x), 0.2))


class RRDB(nn.Module):
    """Three dense blocks, and a skip with residual scaling 0.2."""

    PUBLISHED = {"dense1": "RDB1", "dense2": "RDB2", "dense3": "RDB3"}

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.dense1 = DenseBlock(width, growth)
        self.dense2 = DenseBlock(width, growth)
        self.dense3 = DenseBlock(width, growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.2 * self.dense3(self.dense2(self.dense1(x)))


class DenseBlock(nn.Module):
    """Five convolutions, each on all that came before it, and a skip with residual scaling 0.2."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        for index in range(1, 6):
            out = growth if index < 5 else width
            self.add_module(f"conv{index}", nn.Conv2d(width + (index - 1) * growth, out, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *growing, last = self.children()
        features = x
        for conv in growing:
            features = torch.cat([features, F.leaky_relu(conv(features), 0.2)], dim=1)
        return x + 0.2 * last(features)
