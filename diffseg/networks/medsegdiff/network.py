"""MedSegDiff (Wu et al., 2022), both published forms: a diffusion U-Net beside a plain one that segments the image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.labels.labels import Masks
from diffseg.networks.blocks import Downsample
from diffseg.networks.ensemdiff.network import EnsemDiffNetwork
from diffseg.networks.medsegdiff.highway import Highway, upsample
from diffseg.networks.medsegdiff.settings import MedSegDiff
from diffseg.networks.protocol import Dimensions, Implementation
from diffseg.networks.unet import Stage


class MedSegDiffNetwork(EnsemDiffNetwork):
    """EnsemDiff's diffusion U-Net and a plain U-Net, `highway`, with a mask of its own: the calibration output.

    version "new" (the published code's default): two of the highway's decoder maps are added to the first features,
    detached, so that the highway learns from its own mask only. version "v1": the highway's encoder is gated by the
    features of the diffusion U-Net, filtered by FF-Parsers, and its lowest features are added to those of the other.
    Neither holds the attentive fusion of the paper (Eq. 3), which the published code never calls.

    Published for 256 px: attention at downsampling 16, two outputs. The published code runs at width 128 only, v1 at
    256 px only; here any width and size work (v1's FF-Parsers are built for `dimensions.size`). The 1 × 1 convolution that
    takes v1's lowest features to the diffusion U-Net is drawn anew in every forward pass of the published code, and
    never learnt; here it is a parameter, `embedding`.

    pools: the highway's downsamplings. None: one fewer than levels, as published, and at least the 3 that anchors need.
    Without an image (E3, E4) there is no highway and no calibration output: the network is EnsemDiff's.
    """

    PUBLISHED = EnsemDiffNetwork.PUBLISHED | {"highway": "hwm"}
    UNPUBLISHED = ("embedding",)  # parts that no published state dict holds

    def __init__(self, settings: MedSegDiff, dimensions: Dimensions, pools: int | None = None):
        super().__init__(settings, dimensions)
        self.version = settings.version
        width, multipliers, image_channels = settings.width, settings.multipliers, dimensions.image_channels
        if not image_channels:
            return
        if self.version == "new":
            pools = pools or max(len(multipliers) - 1, 3)
            self.divisor = 2 ** max(pools, len(multipliers) - 1)
            self.highway = Highway(image_channels, width // 4, pools, masks=dimensions.mask_channels)
        else:
            gated = [width * multiplier for multiplier in multipliers[:-2]]
            self.highway = Highway(
                image_channels, width // 4, len(multipliers) - 1, gated, dimensions.size // 2, dimensions.mask_channels
            )
            self.embedding = nn.Conv2d(self.highway.lowest, width * multipliers[-1], 1)

    def image_features(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the new version's mask [B, C, H, W] and anchors [B, width, H, W]; nothing for v1."""
        if self.version != "new":
            return ()
        mask, (*_, coarse, fine, _), _ = self.highway(image)
        fine, coarse = upsample(fine, 2), upsample(coarse, 4)
        return mask, torch.cat([fine, fine, coarse], dim=1).detach()

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        image: torch.Tensor | None = None,
        features: tuple[torch.Tensor, ...] = (),
        extra: bool = False,
    ) -> Any:
        """Return [B, out_channels, H, W]; with `extra`, also the highway's mask [B, C, H, W] in [0, 1], or None without image.

        x_t: [B, channels, H, W]. t: [B] in steps (0 … T − 1). image: [B, image_channels, H, W] or None.
        features: `image_features` of the image, where they are known already.
        """
        if image is None:
            output, mask = super().forward(x_t, t), None
        else:
            output, mask = self._segment(x_t, t, image, features)
        return (output, mask) if extra else output

    def _segment(
        self, x_t: torch.Tensor, t: torch.Tensor, image: torch.Tensor, features: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (output, the highway's mask) given an image."""
        time, x = self.embed(t), torch.cat([image, x_t], dim=1)
        self._check(x)
        if self.version == "new":
            mask, anchors = features or self.image_features(image)
            skips = self.encode(x, time, anchors)
            return self.decode(skips[-1], skips, time), mask
        skips = self.encode(x, time)
        gates = [skip for skip, stage in zip(skips, self.encoder, strict=True) if _downsamples(stage)]
        mask, _, lowest = self.highway(image, gates)
        return self.decode(skips[-1] + self.embedding(lowest), skips, time), mask


def _downsamples(stage: nn.Module) -> bool:
    return isinstance(stage, Stage) and isinstance(stage[0], Downsample)


class MedSegDiffImplementation(Implementation[MedSegDiff]):
    """MedSegDiff: its calibration output has a loss of its own."""

    extra_output = True

    def build(self, dimensions: Dimensions) -> MedSegDiffNetwork:
        """Return the module with fresh weights."""
        return MedSegDiffNetwork(self.settings, dimensions)

    def extra_loss(self, extra: torch.Tensor, masks: Masks) -> torch.Tensor:
        """Return the weighted squared error of the highway's mask, which nothing else trains."""
        if masks.valid is None:  # torch's own mean, whose gradient is rounded in another way
            return self.settings.calibration * F.mse_loss(extra, masks.channels)
        return self.settings.calibration * masks.mean(F.mse_loss(extra, masks.channels, reduction="none")).mean()
