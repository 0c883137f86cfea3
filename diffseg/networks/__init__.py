"""The published networks, one file each, built from a Config or loaded from a published state dict."""

import torch
from torch import nn

from diffseg.config import Network
from diffseg.errors import ConfigError
from diffseg.networks.ensemdiff import EnsemDiff

NETWORKS = {"ensemdiff": EnsemDiff}


def build(network: Network, channels: int, image_channels: int, out_channels: int) -> nn.Module:
    """A network with fresh weights. It is called as `network(x_t, t, image)` and returns [B, out_channels, H, W].

    channels: of x_t. image_channels: of the conditioning image; 0 for none, and `image` is then None.
    """
    settings = network.model_dump(exclude={"name"})
    return NETWORKS[network.name](
        channels=channels, image_channels=image_channels, out_channels=out_channels, **settings
    )


def check_size(network: Network, size: int) -> None:
    """Raises ConfigError if images of that side do not pass the network's downsamplings."""
    factor = 2 ** (len(network.multipliers) - 1)
    if size % factor:
        near = sorted({max(factor, size // factor * factor), (size // factor + 1) * factor})
        raise ConfigError(
            f"data.size is {size}, but {network.name} with {len(network.multipliers)} levels needs a multiple of {factor}: "
            f"set data.size={' or data.size='.join(map(str, near))}"
        )


def load_published(name: str, state_dict: dict[str, torch.Tensor], **settings) -> nn.Module:
    """A network with the weights of a published state dict; settings are those of its class.

    Raises ConfigError that lists every missing and every unexpected key, and every shape that differs.
    """
    network = NETWORKS[name](**settings)
    names = network.published_names()
    own = network.state_dict()
    faults = [f"missing {names[key]}" for key in own if names[key] not in state_dict]
    faults += [f"unexpected {key}" for key in state_dict if key not in set(names.values())]
    faults += [
        f"{names[key]} is {list(state_dict[names[key]].shape)}, not {list(value.shape)}"
        for key, value in own.items()
        if names[key] in state_dict and state_dict[names[key]].shape != value.shape
    ]
    if faults:
        raise ConfigError(f"the state dict is not that of {name} with these settings: {'; '.join(faults)}")
    network.load_state_dict({key: state_dict[published] for key, published in names.items()})
    return network
