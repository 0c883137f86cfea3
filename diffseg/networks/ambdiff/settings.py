"""Settings of AmbDiff."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from diffseg.networks.protocol import Implementation
from diffseg.networks.unet_settings import UNetSettings
from diffseg.section import Levels, PositiveInt


# fmt: off
class AmbDiff(UNetSettings):
    """Settings of AmbDiff (Christensen et al., 2025)."""

    summary: ClassVar[str] = "small U-Net on the noisy mask and the image, for masks that raters disagree on"
    citation: ClassVar[str] = "Christensen et al., 2025"
    stands_in: ClassVar[bool] = False  # its blocks differ between levels

    name: Literal["ambdiff"] = Field("ambdiff", description="Name of the network.")
    width: PositiveInt = Field(32, description="Channels of the first level, a multiple of 32.")
    multipliers: Levels = Field((1, 1, 2, 4), description="Channels of each level, as multiples of the width.")
    blocks: tuple[PositiveInt, ...] = Field((1, 2, 3, 4),  # type: ignore[assignment]  # the published one has a number per level
        description="Residual blocks of each encoder level.")
    middle: PositiveInt = Field(4, description="Residual blocks at the lowest resolution.")
    attention: tuple[PositiveInt, ...] = Field((8,), description="Downsampling factors with self-attention.")
    heads: PositiveInt = Field(4, description="Heads of the self-attention; must divide the width.")
    # fmt: on

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if len(self.blocks) != len(self.multipliers):
            raise ValueError(f"blocks has {len(self.blocks)} entries, but multipliers has {len(self.multipliers)} levels")
        return self

    def implementation(self) -> Implementation["AmbDiff"]:
        """Import the network's own module and return its implementation."""
        from diffseg.networks.ambdiff.network import AmbDiffImplementation

        return AmbDiffImplementation(self)
