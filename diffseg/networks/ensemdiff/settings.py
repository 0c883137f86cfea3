"""Settings of EnsemDiff."""

from typing import ClassVar, Literal

from pydantic import Field

from diffseg.networks.protocol import Implementation
from diffseg.networks.unet_settings import UNetSettings


class EnsemDiff(UNetSettings):
    """Settings of EnsemDiff (Wolleb et al., 2022)."""

    summary: ClassVar[str] = "U-Net on the image and the noisy mask, concatenated"
    citation: ClassVar[str] = "Wolleb et al., 2022"
    peers: ClassVar[tuple[str, ...]] = ("MONAI",)

    name: Literal["ensemdiff"] = Field("ensemdiff", description="Name of the network.")

    def implementation(self) -> Implementation["EnsemDiff"]:
        """Import the network's own module and return its implementation."""
        from diffseg.networks.ensemdiff.network import EnsemDiffImplementation

        return EnsemDiffImplementation(self)
