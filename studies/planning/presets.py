"""The preset that a configuration was made from, for lists of costs."""

from functools import cache
from typing import Any

from diffseg.config import Config
from diffseg.config.presets import names, settings

DECISIVE = ("network.", "data.size", "data.fit", "training.batch")  # settings that memory, disk and time depend on


def name_preset(config: Config) -> str:
    """Return the network and the preset that has the configuration's size, such as "segdiff debug/monuseg".

    If no preset has it, return the network, its size and its batch, such as "segdiff, 64 px, batch 8".
    """
    network, leaves = config.network.name, config.leaves()
    for preset, wanted in _list_presets(network):
        if wanted.keys() <= leaves.keys() and all(leaves[path] == value for path, value in wanted.items()):
            return f"{network} {preset}"
    return f"{network}, {config.data.size} px, batch {config.training.batch}"


@cache
def _list_presets(network: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the decisive settings of each of a network's presets that sets the network and the size of images."""
    found = []
    for preset in names(network):
        own = {path: value for path, value in settings(network, preset).items() if path.startswith(DECISIVE)}
        if "data.size" in own and "training.batch" in own:
            found.append((preset, own))
    return found
