"""EnsemDiff (Wolleb et al., 2022): the guided-diffusion U-Net on the image and the noisy mask, concatenated."""

import torch

from diffseg.networks.blocks import UNet


class EnsemDiff(UNet):
    """Published: width 128, multipliers (1, 1, 2, 2, 4, 4), attention at downsampling 16, two outputs (ε and the variance).

    In E3 and E4 there is no conditioning branch to remove: the first convolution just has fewer input channels.
    """

    def __init__(
        self,
        channels=1,
        image_channels=3,
        out_channels=2,
        width=128,
        multipliers=(1, 1, 2, 2, 4, 4),
        blocks=2,
        attention=(16,),
        heads=1,
        dropout=0.0,
    ):
        super().__init__(image_channels + channels, out_channels, width, multipliers, blocks, attention, heads, dropout)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """x_t [B, channels, H, W], t [B] in steps (0 … T − 1), image [B, image_channels, H, W] or None."""
        time = self.embed(t)
        skips = self.encode(x_t if image is None else torch.cat([image, x_t], dim=1), time)
        return self.decode(skips[-1], skips, time)
