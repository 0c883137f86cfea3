"""Settings of the toy network; nothing here imports torch."""

from typing import ClassVar, Literal

from pydantic import Field

from diffseg.networks.protocol import Implementation, NetworkSettings
from diffseg.section import PositiveInt


class ToyNet(NetworkSettings):
    """Settings of a small convolutional network."""

    summary: ClassVar[str] = "three convolutions on the noisy mask, t and the image"
    citation: ClassVar[str] = "nobody, 2026"

    name: Literal["toynet"] = Field("toynet", description="Name of the network.")
    width: PositiveInt = Field(16, description="Channels of the hidden layers.")

    def implementation(self) -> Implementation["ToyNet"]:
        """Import the network's own module and return its implementation."""
        from toynet.network import ToyNetImplementation

        return ToyNetImplementation(self)
