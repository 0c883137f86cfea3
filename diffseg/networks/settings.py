"""The networks' settings."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from diffseg.section import Levels, Positive, PositiveInt, Section


# fmt: off
class UNet(Section):
    """Settings of a U-Net of the guided-diffusion family."""

    width: PositiveInt = Field(128, description="Channels of the first level, a multiple of 32.")
    multipliers: Levels = Field((1, 1, 2, 2, 4, 4), description="Channels of each level, as multiples of the width.")
    blocks: PositiveInt = Field(2, description="Residual blocks per encoder level.")
    attention: tuple[PositiveInt, ...] = Field((16,), description="Downsampling factors with self-attention.")
    heads: PositiveInt = Field(1, description="Heads of the self-attention; must divide the width.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the residual blocks.")

    @model_validator(mode="after")
    def _divisible(self):
        if self.width % 32:
            raise ValueError(f"width is {self.width}, but group normalisation needs a multiple of 32")
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, which does not divide the width {self.width}")
        return self

    @property
    def divisor(self) -> int:
        """Image sides must be a multiple of it."""
        return 2 ** (len(self.multipliers) - 1)



class EnsemDiff(UNet):
    """Settings of EnsemDiff (Wolleb et al., 2022)."""

    name: Literal["ensemdiff"] = Field("ensemdiff", description="Name of the network.")



class SegDiff(UNet):
    """Settings of SegDiff (Amit et al., 2021)."""

    name: Literal["segdiff"] = Field("segdiff", description="Name of the network.")
    multipliers: Levels = Field((1, 1, 1, 2, 2, 4, 4), description="Channels of each level, as multiples of the width.")
    blocks: PositiveInt = Field(3, description="Residual blocks per encoder level.")
    attention: tuple[PositiveInt, ...] = Field((16, 32), description="Downsampling factors with self-attention.")
    heads: PositiveInt = Field(4, description="Heads of the self-attention; must divide the width.")
    rrdb_blocks: PositiveInt = Field(12, description="Residual-in-residual dense blocks of the image encoder.")
    rrdb_width: PositiveInt = Field(64, description="Channels of the image encoder.")
    rrdb_growth: PositiveInt = Field(32, description="Channels that each convolution of a dense block adds.")



class MedSegDiff(UNet):
    """Settings of MedSegDiff (Wu et al., 2022)."""

    name: Literal["medsegdiff"] = Field("medsegdiff", description="Name of the network.")
    version: Literal["new", "v1"] = Field("new", description="Version of the published code.")
    calibration: float = Field(10.0, ge=0,
        description="Weight of the squared error of the calibration output, a mask from the image alone.")

    @property
    def divisor(self) -> int:
        return 2 ** max(len(self.multipliers) - 1, 3)



class AmbDiff(UNet):
    """Settings of AmbDiff (Christensen et al., 2025)."""

    name: Literal["ambdiff"] = Field("ambdiff", description="Name of the network.")
    width: PositiveInt = Field(32, description="Channels of the first level, a multiple of 32.")
    multipliers: Levels = Field((1, 1, 2, 4), description="Channels of each level, as multiples of the width.")
    blocks: tuple[PositiveInt, ...] = Field((1, 2, 3, 4), description="Residual blocks of each encoder level.")
    middle: PositiveInt = Field(4, description="Residual blocks at the lowest resolution.")
    attention: tuple[PositiveInt, ...] = Field((8,), description="Downsampling factors with self-attention.")
    heads: PositiveInt = Field(4, description="Heads of the self-attention; must divide the width.")

    @model_validator(mode="after")
    def _one_a_level(self):
        if len(self.blocks) != len(self.multipliers):
            raise ValueError(f"blocks has {len(self.blocks)} entries, but multipliers has {len(self.multipliers)} levels")
        return self



class SegFormer(Section):
    """Settings of SegFormer (Xie et al., 2021)."""

    name: Literal["segformer"] = Field("segformer", description="Name of the network.")
    encoder: Literal["mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"] = Field("mit_b3",
        description="Mix Transformer encoder, from the smallest to the largest.")
    weights: Literal["imagenet", "none"] = Field("imagenet",
        description="Initial weights of the encoder: imagenet, which are downloaded once, or none (drawn from the seed).")
    divisor: ClassVar[int] = 32



class NNUNet(Section):
    """Settings of nnU-Net (Isensee et al., 2021); plans, batch, losses and augmentation are its own."""

    name: Literal["nnunet"] = Field("nnunet", description="Name of the network.")
    epochs: PositiveInt = Field(1000, description="Epochs of the training.")
    iterations: PositiveInt = Field(250, description="Optimiser steps per epoch.")
    learning_rate: Positive = Field(1e-2, description="Learning rate at the start; it falls to 0 as a polynomial.")
    mirroring: bool = Field(True, description="Average predictions of mirrored images (test-time augmentation).")
    divisor: ClassVar[int] = 1



NETWORKS = {cls.model_fields["name"].default: cls for cls in (EnsemDiff, SegDiff, MedSegDiff, AmbDiff, SegFormer, NNUNet)}



FEED_FORWARD = ("segformer", "nnunet")  # networks without a noisy mask: E1 only



Network = Annotated[EnsemDiff | SegDiff | MedSegDiff | AmbDiff | SegFormer | NNUNet, Field(discriminator="name")]
