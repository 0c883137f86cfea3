"""All networks by their names, in the order in which lists, tables and colours show them. Imports no torch."""

from dataclasses import dataclass

from diffseg.networks.ambdiff.settings import AmbDiff
from diffseg.networks.ensemdiff.settings import EnsemDiff
from diffseg.networks.medsegdiff.settings import MedSegDiff
from diffseg.networks.nnunet.settings import NNUNet
from diffseg.networks.protocol import NetworkSettings
from diffseg.networks.segdiff.settings import SegDiff
from diffseg.networks.segformer.settings import SegFormer

NETWORKS: dict[str, type[NetworkSettings]] = {
    "ensemdiff": EnsemDiff,
    "segdiff": SegDiff,
    "medsegdiff": MedSegDiff,
    "ambdiff": AmbDiff,
    "segformer": SegFormer,
    "nnunet": NNUNet,
}


@dataclass(frozen=True)
class NetworkEntry:
    """A network as lists show it."""

    name: str
    summary: str  # what it is, in one line
    citation: str
    experiments: tuple[str, ...]
    presets: tuple[str, ...]


def describe() -> list[NetworkEntry]:
    """Return every network, in the order of registration."""
    from diffseg.config.presets import names  # which looks networks up here

    return [
        NetworkEntry(name, network.summary, network.citation, network.experiments, tuple(names(name)))
        for name, network in NETWORKS.items()
    ]
