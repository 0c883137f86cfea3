"""The networks, one file each, built from a Config or loaded from a published state dict."""

import logging

import torch
from torch import nn

from diffseg.config import Network
from diffseg.errors import ConfigError
from diffseg.networks.ambdiff import AmbDiff
from diffseg.networks.blocks import published_names
from diffseg.networks.ensemdiff import EnsemDiff
from diffseg.networks.medsegdiff import MedSegDiff
from diffseg.networks.segdiff import SegDiff
from diffseg.networks.segformer import SegFormer

log = logging.getLogger(__name__)

NETWORKS = {
    "ensemdiff": EnsemDiff,
    "segdiff": SegDiff,
    "medsegdiff": MedSegDiff,
    "ambdiff": AmbDiff,
    "segformer": SegFormer,
}


def build(network: Network, channels: int, image_channels: int, out_channels: int, size: int) -> nn.Module:
    """A network with fresh weights. It is called as `network(x_t, t, image)` and returns [B, out_channels, H, W].

    channels: of x_t. image_channels: of the conditioning image; 0 for none, and `image` is then None.
    size: side of the images that it is trained on, px.
    """
    settings = network.model_dump(exclude={"name", "calibration"})
    if network.name == "medsegdiff":
        settings["size"] = size
    return NETWORKS[network.name](
        channels=channels, image_channels=image_channels, out_channels=out_channels, **settings
    )


def check_size(network: Network, size: int) -> None:
    """Raises ConfigError if images of that side do not pass the network's downsamplings."""
    factor = network.divisor
    if size % factor:
        near = sorted({max(factor, size // factor * factor), (size // factor + 1) * factor})
        raise ConfigError(
            f"data.size is {size}, but {network.name} with these settings needs a multiple of {factor}: "
            f"set data.size={' or data.size='.join(map(str, near))}"
        )


def load_published(name: str, state_dict: dict[str, torch.Tensor], **settings) -> nn.Module:
    """A network with the weights of a published state dict; settings are those of its class.

    What the published code never keeps (`UNPUBLISHED` of the class) may be missing and then stays as drawn, with a warning.
    Raises ConfigError that lists every missing and every unexpected key, and every shape that differs.
    """
    network = NETWORKS[name](**settings)
    names = published_names(network)
    optional = {key for key in names if key.split(".")[0] in getattr(network, "UNPUBLISHED", ())}
    own = network.state_dict()
    faults = [f"missing {names[key]}" for key in own if names[key] not in state_dict and key not in optional]
    faults += [f"unexpected {key}" for key in state_dict if key not in set(names.values())]
    faults += [
        f"{names[key]} is {list(state_dict[names[key]].shape)}, not {list(value.shape)}"
        for key, value in own.items()
        if names[key] in state_dict and state_dict[names[key]].shape != value.shape
    ]
    if faults:
        raise ConfigError(f"the state dict is not that of {name} with these settings: {'; '.join(faults)}")
    if drawn := [key for key in optional if names[key] not in state_dict]:
        log.warning(
            "no published state dict of %s holds %s: drawn at random, to be trained", name, ", ".join(sorted(drawn))
        )
    loaded = {key: state_dict[published] for key, published in names.items() if published in state_dict}
    network.load_state_dict(own | loaded)
    return network
