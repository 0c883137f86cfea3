"""One trial as data: typed, frozen, hashable settings, their presets, and their reading. Imports no torch."""

from diffseg.config.data import Augment, Data
from diffseg.config.diffusion import PUBLISHED, Diffusion
from diffseg.config.head import Head
from diffseg.config.inference import Inference
from diffseg.config.leaves import parse_leaf
from diffseg.config.network import Network
from diffseg.config.training import Training
from diffseg.config.trial import Config, load
from diffseg.networks.ambdiff.settings import AmbDiff
from diffseg.networks.ensemdiff.settings import EnsemDiff
from diffseg.networks.medsegdiff.settings import MedSegDiff
from diffseg.networks.nnunet.settings import NNUNet
from diffseg.networks.protocol import NetworkSettings
from diffseg.networks.registry import NETWORKS
from diffseg.networks.segdiff.settings import SegDiff
from diffseg.networks.segformer.settings import SegFormer
from diffseg.section import PositiveInt, Section

__all__ = [
    "NETWORKS",
    "PUBLISHED",
    "AmbDiff",
    "Augment",
    "Config",
    "Data",
    "Diffusion",
    "EnsemDiff",
    "Head",
    "Inference",
    "MedSegDiff",
    "NNUNet",
    "Network",
    "NetworkSettings",
    "PositiveInt",
    "Section",
    "SegDiff",
    "SegFormer",
    "Training",
    "load",
    "parse_leaf",
]
