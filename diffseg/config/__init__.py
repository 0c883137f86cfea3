"""One trial as data: typed, frozen, hashable settings, their presets, and their reading."""

from diffseg.config.data import Augment, Data
from diffseg.config.diffusion import PUBLISHED, Diffusion
from diffseg.config.inference import Inference
from diffseg.config.leaves import parse_leaf
from diffseg.config.training import Training
from diffseg.config.trial import Config, load
from diffseg.networks.settings import (
    FEED_FORWARD,
    NETWORKS,
    AmbDiff,
    EnsemDiff,
    MedSegDiff,
    Network,
    NNUNet,
    SegDiff,
    SegFormer,
)
from diffseg.section import PositiveInt, Section

__all__ = [
    "FEED_FORWARD",
    "NETWORKS",
    "PUBLISHED",
    "AmbDiff",
    "Augment",
    "Config",
    "Data",
    "Diffusion",
    "EnsemDiff",
    "Inference",
    "MedSegDiff",
    "NNUNet",
    "Network",
    "PositiveInt",
    "Section",
    "SegDiff",
    "SegFormer",
    "Training",
    "load",
    "parse_leaf",
]
