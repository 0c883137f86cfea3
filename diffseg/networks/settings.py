"""The networks' settings."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from diffseg.section import Levels, Positive, PositiveInt, Section


# fmt: off
class UNet(Section):
    width: PositiveInt = 128                                    # channels of the first level, a multiple of 32
    multipliers: Levels = (1, 1, 2, 2, 4, 4)                    # of width, per level
    blocks: PositiveInt = 2                                     # residual blocks per encoder level
    attention: tuple[PositiveInt, ...] = (16,)                  # downsampling factors that have self-attention
    heads: PositiveInt = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

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
    name: Literal["ensemdiff"] = "ensemdiff"



class SegDiff(UNet):
    name: Literal["segdiff"] = "segdiff"
    multipliers: Levels = (1, 1, 1, 2, 2, 4, 4)
    blocks: PositiveInt = 3
    attention: tuple[PositiveInt, ...] = (16, 32)
    heads: PositiveInt = 4
    rrdb_blocks: PositiveInt = 12                               # of the image encoder
    rrdb_width: PositiveInt = 64                                # its channels
    rrdb_growth: PositiveInt = 32                               # channels that a convolution of its dense blocks adds



class MedSegDiff(UNet):
    name: Literal["medsegdiff"] = "medsegdiff"
    version: Literal["new", "v1"] = "new"                       # of the published code
    calibration: Annotated[float, Field(ge=0)] = 10.0           # weight of the squared error of the network's second output

    @property
    def divisor(self) -> int:
        return 2 ** max(len(self.multipliers) - 1, 3)



class AmbDiff(UNet):
    name: Literal["ambdiff"] = "ambdiff"
    width: PositiveInt = 32
    multipliers: Levels = (1, 1, 2, 4)
    blocks: tuple[PositiveInt, ...] = (1, 2, 3, 4)              # residual blocks of each encoder level
    middle: PositiveInt = 4                                     # residual blocks at the bottom
    attention: tuple[PositiveInt, ...] = (8,)
    heads: PositiveInt = 4

    @model_validator(mode="after")
    def _one_a_level(self):
        if len(self.blocks) != len(self.multipliers):
            raise ValueError(f"blocks has {len(self.blocks)} entries, but multipliers has {len(self.multipliers)} levels")
        return self



class SegFormer(Section):
    name: Literal["segformer"] = "segformer"
    encoder: Literal["mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"] = "mit_b3"
    weights: Literal["imagenet", "none"] = "imagenet"           # that the encoder starts from; imagenet is downloaded once
    divisor: ClassVar[int] = 32



class NNUNet(Section):
    name: Literal["nnunet"] = "nnunet"                          # plans, batch, losses and augmentation are its own
    epochs: PositiveInt = 1000
    iterations: PositiveInt = 250                               # optimiser steps an epoch
    learning_rate: Positive = 1e-2                              # at the start; it falls to 0 as a polynomial
    mirroring: bool = True                                      # at test time
    divisor: ClassVar[int] = 1



NETWORKS = {cls.model_fields["name"].default: cls for cls in (EnsemDiff, SegDiff, MedSegDiff, AmbDiff, SegFormer, NNUNet)}



FEED_FORWARD = ("segformer", "nnunet")  # networks without a noisy mask: E1 only



Network = Annotated[EnsemDiff | SegDiff | MedSegDiff | AmbDiff | SegFormer | NNUNet, Field(discriminator="name")]
