"""Settings of the head: what E1's network says of a mask."""

from typing import Literal

from pydantic import Field

from diffseg.section import Positive, PositiveInt, Section, Users

USERS: Users = {  # setting → the kinds that use it; with others it is at its default
    "rank": {"kind": ("low-rank",)},
    "draws": {"kind": ("low-rank",)},
    "dimensions": {"kind": ("latent",)},
    "features": {"kind": ("latent",)},
    "width": {"kind": ("latent",)},
    "beta": {"kind": ("latent",)},
}


# fmt: off
class Head(Section):
    """Settings of the head: a probability for each pixel, or a distribution over whole masks to sample from (E1)."""

    kind: Literal["none", "low-rank", "latent"] = Field("none",
        description="none: a probability for each pixel; low-rank: normal logits with a covariance of low rank (stochastic "
                    "segmentation networks); latent: a latent variable for each image (probabilistic U-Net).")
    rank: PositiveInt = Field(10, description="Rank of the covariance of the logits (low-rank).")
    draws: PositiveInt = Field(20, description="Samples of the logits that the loss averages likelihoods over (low-rank).")
    dimensions: PositiveInt = Field(6, description="Dimensions of the latent variable (latent).")
    features: PositiveInt = Field(32, description="Channels that the network passes on to the latent variable (latent).")
    width: PositiveInt = Field(32, description="Channels of the first level of the encoders of prior and posterior (latent).")
    beta: Positive = Field(1.0, description="Weight of the Kullback–Leibler divergence from prior to posterior (latent).")
    # fmt: on
