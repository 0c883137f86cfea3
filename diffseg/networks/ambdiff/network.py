"""AmbDiff (Christensen et al., 2025): a small U-Net on the noisy mask and the image, for masks that raters disagree on."""

import torch

from diffseg.networks.ambdiff.settings import AmbDiff
from diffseg.networks.protocol import Dimensions, Implementation
from diffseg.networks.unet import UNet


class AmbDiffNetwork(UNet):
    """A small U-Net with a different number of residual blocks at every level.

    The published network ends in tanh, here `diffusion.activation`, and is given t in [0, 1], here `diffusion.time`: both
    are choices of the process as much as of the network. Its time embedding has periods up to 20π.
    Without an image (E3, E4) the first convolution has fewer input channels.
    """

    LONGEST = 10
    PUBLISHED = UNet.PUBLISHED | {"norm": "out.1", "head": "out.3"}

    def __init__(self, settings: AmbDiff, dimensions: Dimensions):
        in_channels = dimensions.channels + dimensions.image_channels
        super().__init__(settings, in_channels, dimensions.out_channels, settings.middle)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """Return [B, out_channels, H, W]. x_t: [B, channels, H, W]. t: [B]. image: [B, image_channels, H, W] or None."""
        time = self.embed(t)
        skips = self.encode(x_t if image is None else torch.cat([x_t, image], dim=1), time)
        return self.decode(skips[-1], skips, time)


class AmbDiffImplementation(Implementation[AmbDiff]):
    """AmbDiff, trained and used in the common way."""

    def build(self, dimensions: Dimensions) -> AmbDiffNetwork:
        """Return the module with fresh weights."""
        return AmbDiffNetwork(self.settings, dimensions)
