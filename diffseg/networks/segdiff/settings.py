"""Settings of SegDiff."""

from typing import ClassVar, Literal

from pydantic import Field

from diffseg.networks.protocol import Implementation
from diffseg.networks.unet_settings import UNetSettings
from diffseg.section import Levels, PositiveInt


# fmt: off
class SegDiff(UNetSettings):
    """Settings of SegDiff (Amit et al., 2021)."""

    summary: ClassVar[str] = "U-Net on the noisy mask; features of an image encoder are added"
    citation: ClassVar[str] = "Amit et al., 2021"

    name: Literal["segdiff"] = Field("segdiff", description="Name of the network.")
    multipliers: Levels = Field((1, 1, 1, 2, 2, 4, 4), description="Channels of each level, as multiples of the width.")
    blocks: PositiveInt = Field(3, description="Residual blocks per encoder level.")
    attention: tuple[PositiveInt, ...] = Field((16, 32), description="Downsampling factors with self-attention.")
    heads: PositiveInt = Field(4, description="Heads of the self-attention; must divide the width.")
    rrdb_blocks: PositiveInt = Field(12, description="Residual-in-residual dense blocks of the image encoder.")
    rrdb_width: PositiveInt = Field(64, description="Channels of the image encoder.")
    rrdb_growth: PositiveInt = Field(32, description="Channels that each convolution of a dense block adds.")
    # fmt: on

    def implementation(self) -> Implementation["SegDiff"]:
        """Import the network's own module and return its implementation."""
        from diffseg.networks.segdiff.network import SegDiffImplementation

        return SegDiffImplementation(self)
