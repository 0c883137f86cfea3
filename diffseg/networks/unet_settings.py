"""Settings that the U-Nets of the guided-diffusion family share (the module is `blocks.UNet`)."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from diffseg.networks.protocol import NetworkSettings
from diffseg.section import Levels, PositiveInt


# fmt: off
class UNetSettings(NetworkSettings):
    """Settings of a U-Net of the guided-diffusion family."""

    stands_in: ClassVar[bool] = True

    width: PositiveInt = Field(128, description="Channels of the first level, a multiple of 32.")
    multipliers: Levels = Field((1, 1, 2, 2, 4, 4), description="Channels of each level, as multiples of the width.")
    blocks: PositiveInt = Field(2, description="Residual blocks per encoder level.")
    attention: tuple[PositiveInt, ...] = Field((16,), description="Downsampling factors with self-attention.")
    heads: PositiveInt = Field(1, description="Heads of the self-attention; must divide the width.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the residual blocks.")
    # fmt: on

    @model_validator(mode="after")
    def _check_divisibility(self) -> Self:
        if self.width % 32:
            raise ValueError(f"width is {self.width}, but group normalisation needs a multiple of 32")
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, which does not divide the width {self.width}")
        return self

    @property
    def divisor(self) -> int:
        """The number that sides of images must be a multiple of."""
        return int(2 ** (len(self.multipliers) - 1))
