"""Settings of SegFormer."""

from typing import ClassVar, Literal

from pydantic import Field

from diffseg.networks.protocol import Implementation, NetworkSettings


# fmt: off
class SegFormer(NetworkSettings):
    """Settings of SegFormer (Xie et al., 2021)."""

    summary: ClassVar[str] = "Mix Transformer encoder and an all-MLP decoder, by segmentation-models-pytorch"
    citation: ClassVar[str] = "Xie et al., 2021"
    experiments: ClassVar[tuple[str, ...]] = ("e1",)
    deterministic: ClassVar[bool] = True
    ignored: ClassVar[tuple[str, ...]] = ("diffusion",)
    unordered_sums: ClassVar[bool] = True  # of bilinear interpolation

    name: Literal["segformer"] = Field("segformer", description="Name of the network.")
    encoder: Literal["mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"] = Field("mit_b3",
        description="Mix Transformer encoder, from the smallest to the largest.")
    weights: Literal["imagenet", "none"] = Field("imagenet",
        description="Initial weights of the encoder: imagenet, which are downloaded once, or none (drawn from the seed).")
    # fmt: on

    @property
    def divisor(self) -> int:
        """The number that sides of images must be a multiple of."""
        return 32

    def implementation(self) -> Implementation["SegFormer"]:
        """Import the network's own module and return its implementation."""
        from diffseg.networks.segformer.network import SegFormerImplementation

        return SegFormerImplementation(self)
