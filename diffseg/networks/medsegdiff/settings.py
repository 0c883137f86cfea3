"""Settings of MedSegDiff."""

from typing import ClassVar, Literal

from pydantic import Field

from diffseg.networks.protocol import Implementation
from diffseg.networks.unet_settings import UNetSettings


# fmt: off
class MedSegDiff(UNetSettings):
    """Settings of MedSegDiff (Wu et al., 2022)."""

    summary: ClassVar[str] = "EnsemDiff's U-Net beside a plain one that segments the image, in both forms of the published code"
    citation: ClassVar[str] = "Wu et al., 2022"

    name: Literal["medsegdiff"] = Field("medsegdiff", description="Name of the network.")
    version: Literal["new", "v1"] = Field("new", description="Version of the published code.")
    calibration: float = Field(10.0, ge=0,
        description="Weight of the squared error of the calibration output, a mask from the image alone.")
    # fmt: on

    @property
    def divisor(self) -> int:
        """The number that sides of images must be a multiple of."""
        return int(2 ** max(len(self.multipliers) - 1, 3))

    def implementation(self) -> Implementation["MedSegDiff"]:
        """Import the network's own module and return its implementation."""
        from diffseg.networks.medsegdiff.network import MedSegDiffImplementation

        return MedSegDiffImplementation(self)
