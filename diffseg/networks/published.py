"""Weights of the published code: the names in its state dicts, and loading them into a network.

Each module class lists in `PUBLISHED` where the published code names a part otherwise.
"""

import logging

import torch
from torch import nn

from diffseg.errors import ConfigError

log = logging.getLogger(__name__)


def published_names(module: nn.Module) -> dict[str, str]:
    """Return the published state dict's key of each own key, parameters and buffers."""
    table = getattr(module, "PUBLISHED", {})
    own = [*dict(module.named_parameters(recurse=False)), *dict(module.named_buffers(recurse=False))]
    names = {key: table.get(key, key) for key in own}
    for child, part in module.named_children():
        prefix = table.get(child, child)
        names |= {f"{child}.{key}": f"{prefix}.{name}" for key, name in published_names(part).items()}
    return names


def load_published(network: nn.Module, state_dict: dict[str, torch.Tensor]) -> None:
    """Load the weights of a published state dict into a network.

    Parts that the published code never keeps (`UNPUBLISHED` of the network) may be missing: they stay as drawn, with a
    warning. Raises ConfigError that lists every missing and every unexpected key, and every shape that differs.
    """
    kind, names, own = type(network).__name__, published_names(network), network.state_dict()
    optional = {key for key in names if key.split(".")[0] in getattr(network, "UNPUBLISHED", ())}
    faults = [f"missing {names[key]}" for key in own if names[key] not in state_dict and key not in optional]
    faults += [f"unexpected {key}" for key in state_dict if key not in set(names.values())]
    faults += [
        f"{names[key]} is {list(state_dict[names[key]].shape)}, not {list(value.shape)}"
        for key, value in own.items()
        if names[key] in state_dict and state_dict[names[key]].shape != value.shape
    ]
    if faults:
        raise ConfigError(f"the state dict is not that of {kind} with these settings: {'; '.join(faults)}")
    if drawn := sorted(key for key in optional if names[key] not in state_dict):
        log.warning("no published state dict of %s holds %s: drawn at random, to be trained", kind, ", ".join(drawn))
    loaded = {key: state_dict[published] for key, published in names.items() if published in state_dict}
    network.load_state_dict(own | loaded)
