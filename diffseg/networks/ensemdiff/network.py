"""EnsemDiff (Wolleb et al., 2022): the guided-diffusion U-Net on the image and the noisy mask, concatenated."""

import torch

from diffseg.networks.ensemdiff.settings import EnsemDiff
from diffseg.networks.protocol import Dimensions, Implementation
from diffseg.networks.unet import UNet
from diffseg.networks.unet_settings import UNetSettings


class EnsemDiffNetwork(UNet):
    """Published with attention at downsampling 16 and two outputs (ε and the variance).

    Without an image (E3, E4) there is no conditioning branch to remove: the first convolution has fewer input channels.
    """

    def __init__(self, settings: UNetSettings, dimensions: Dimensions):
        super().__init__(settings, dimensions.image_channels + dimensions.channels, dimensions.out_channels)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """Return [B, out_channels, H, W].

        x_t: [B, channels, H, W]. t: [B] in steps (0 … T − 1). image: [B, image_channels, H, W] or None.
        """
        time = self.embed(t)
        skips = self.encode(x_t if image is None else torch.cat([image, x_t], dim=1), time)
        return self.decode(skips[-1], skips, time)


class EnsemDiffImplementation(Implementation[EnsemDiff]):
    """EnsemDiff, trained and used in the common way."""

    def build(self, dimensions: Dimensions) -> EnsemDiffNetwork:
        """Return the module with fresh weights."""
        return EnsemDiffNetwork(self.settings, dimensions)
