"""SegDiff (Amit et al., 2021): a U-Net on the noisy mask; features of an image encoder are added to its first ones."""

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.networks.protocol import Dimensions, Implementation
from diffseg.networks.segdiff.settings import SegDiff
from diffseg.networks.unet import UNet


class SegDiffNetwork(UNet):
    """Published for MoNuSeg with one output (ε).

    The image encoder works at full resolution and does not see t, so its features are those of all sampling steps.
    Without an image (E3, E4) there is no image encoder.
    """

    PUBLISHED = UNet.PUBLISHED | {"image_encoder": "rrdb"}

    def __init__(self, settings: SegDiff, dimensions: Dimensions):
        super().__init__(settings, dimensions.channels, dimensions.out_channels)
        if dimensions.image_channels:
            blocks, width, growth = settings.rrdb_blocks, settings.rrdb_width, settings.rrdb_growth
            self.image_encoder = RRDBNet(dimensions.image_channels, settings.width, blocks, width, growth)

    def image_features(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        """Return the image encoder's features [B, width, H, W]."""
        return (self.image_encoder(image),)

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        image: torch.Tensor | None = None,
        features: tuple[torch.Tensor, ...] = (),
    ) -> torch.Tensor:
        """Return [B, out_channels, H, W].

        x_t: [B, channels, H, W]. t: [B] in steps (0 … T − 1). image: [B, image_channels, H, W] or None.
        features: `image_features` of the image, where they are known already.
        """
        time = self.embed(t)
        (added,) = (None,) if image is None else features or self.image_features(image)
        skips = self.encode(x_t, time, added)
        return self.decode(skips[-1], skips, time)


class RRDBNet(nn.Module):
    """Residual-in-residual dense blocks (Wang et al., 2018, ESRGAN), without upsampling."""

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
        """Return features [B, out_channels, H, W] of the image."""
        x = self.first(image)
        x = x + self.last(self.trunk(x))
        found: torch.Tensor = self.out(F.leaky_relu(self.conv(x), 0.2))
        return found


class RRDB(nn.Module):
    """Three dense blocks, and a skip with residual scaling 0.2. [B, width, H, W]."""

    PUBLISHED = {"dense1": "RDB1", "dense2": "RDB2", "dense3": "RDB3"}
    COMPILED_ALONE = True

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.dense1 = DenseBlock(width, growth)
        self.dense2 = DenseBlock(width, growth)
        self.dense3 = DenseBlock(width, growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return maps of x's shape."""
        found: torch.Tensor = x + 0.2 * self.dense3(self.dense2(self.dense1(x)))
        return found


class DenseBlock(nn.Module):
    """Five convolutions, each on the outputs of all before it, and a skip with residual scaling 0.2. [B, width, H, W]."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        for index in range(1, 6):
            out = growth if index < 5 else width
            self.add_module(f"conv{index}", nn.Conv2d(width + (index - 1) * growth, out, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return maps of x's shape."""
        *growing, last = self.children()
        features = x
        for conv in growing:
            features = torch.cat([features, F.leaky_relu(conv(features), 0.2)], dim=1)
        found: torch.Tensor = x + 0.2 * last(features)
        return found


class SegDiffImplementation(Implementation[SegDiff]):
    """SegDiff, trained and used in the common way."""

    def build(self, dimensions: Dimensions) -> SegDiffNetwork:
        """Return the module with fresh weights."""
        return SegDiffNetwork(self.settings, dimensions)
