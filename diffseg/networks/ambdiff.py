"""AmbDiff (Christensen et al., 2025): a small U-Net on the noisy mask and the image, for masks that raters disagree on."""

import torch

from diffseg.networks.blocks import UNet


class AmbDiff(UNet):
    """Published: width 32, multipliers (1, 1, 2, 4), (1, 2, 3, 4) blocks a level and 4 in the middle, attention below.

    The published network ends in tanh, which is here `diffusion.activation`, and is given t in [0, 1], which is here
    `diffusion.time`: both are choices of the process as much as of the network. Its time embedding has periods up to 20π.
    In E3 and E4 the first convolution just has fewer input channels.
    """

    LONGEST = 10
    PUBLISHED = UNet.PUBLISHED | {"norm": "out.1", "head": "out.3"}

    def __init__(
        self,
        channels=1,
        image_channels=3,
        out_channels=1,
        width=32,
        multipliers=(1, 1, 2, 4),
        blocks=(1, 2, 3, 4),
        middle=4,
        attention=(8,),
        heads=4,
        dropout=0.0,
    ):
        super().__init__(
            channels + image_channels, out_channels, width, multipliers, blocks, attention, heads, dropout, middle
        )

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """x_t [B, channels, H, W], t [B], image [B, image_channels, H, W] or None."""
        time = self.embed(t)
        skips = self.encode(x_t if image is None else torch.cat([x_t, image], dim=1), time)
        return self.decode(skips[-1], skips, time)
