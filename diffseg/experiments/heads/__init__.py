"""The heads of E1: how a mask follows from the network's output, and what is minimised."""

from diffseg.config import Config
from diffseg.experiments.heads.latent import Latent
from diffseg.experiments.heads.low_rank import LowRank
from diffseg.experiments.heads.pixels import Pixels
from diffseg.experiments.heads.protocol import Head

__all__ = ["HEADS", "Head", "make_head"]

HEADS: dict[str, type[Head]] = {"none": Pixels, "low-rank": LowRank, "latent": Latent}


def make_head(config: Config) -> Head:
    """Return the configured head."""
    return HEADS[config.head.kind](config)
