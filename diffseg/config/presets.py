"""Published settings of the networks by name, `preset=published/monuseg`, and their debug twins, `preset=debug/monuseg`.

Each network's folder has a presets.toml: a table ["published/NAME"] for every preset, on top of the settings that all of
them share, in [all]. "debug/NAME" is the same with the table [debug] over it, which shrinks sizes and steps and nothing
else. Where a publication and its code disagree, a comment says which of them is followed.
"""

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffseg.config.leaves import flat
from diffseg.errors import ConfigError
from diffseg.networks.registry import NETWORKS


@dataclass(frozen=True)
class Preset:
    """A preset as lists show it."""

    network: str
    name: str
    settings: dict[str, Any]  # by dotted path


def expanded(leaves: dict[str, Any], network: str) -> dict[str, Any]:
    """Replace `preset` by the settings that it stands for; settings beside it win over them.

    Raises ConfigError if the network has no preset of that name.
    """
    if "preset" not in leaves:
        return leaves
    return settings(network, leaves["preset"]) | {key: value for key, value in leaves.items() if key != "preset"}


def settings(network: str, preset: str) -> dict[str, Any]:
    """Return the settings of a network's preset by their dotted paths. Raises ConfigError if there is no such preset."""
    if network not in NETWORKS:
        raise ConfigError(f"network.name: got '{network}'; allowed are {', '.join(NETWORKS)}")
    if preset not in names(network):
        raise ConfigError(f"{network} has no preset '{preset}': allowed are {', '.join(names(network))}")
    tables = _tables(network)
    kind, _, name = preset.partition("/")
    found = flat(tables.get("all", {})) | flat(tables[f"published/{name}"])
    return found | (flat(tables["debug"]) if kind == "debug" else {})


def names(network: str) -> list[str]:
    """Return the names of a network's presets: the published ones, then their debug twins."""
    tables = _tables(network)
    published = [name.removeprefix("published/") for name in tables if "/" in name]
    kinds = ("published", "debug") if "debug" in tables else ("published",)
    return [f"{kind}/{name}" for kind in kinds for name in published]


def describe(network: str | None = None) -> list[Preset]:
    """Return every preset of a network, or of all networks. Raises ConfigError if there is no such network."""
    if network is not None and network not in NETWORKS:
        raise ConfigError(f"got network '{network}'; allowed are {', '.join(NETWORKS)}")
    listed = NETWORKS if network is None else (network,)
    return [Preset(one, name, settings(one, name)) for one in listed for name in names(one)]


def _tables(network: str) -> dict[str, dict[str, Any]]:
    """Return the tables of a network's presets.toml; none without a network of that name, or without the file."""
    return _read(NETWORKS[network].folder() / "presets.toml") if network in NETWORKS else {}


@lru_cache
def _read(path: Path) -> dict[str, dict[str, Any]]:
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
