"""Published settings of the networks, by name: `preset=published/monuseg`, and their small twins, `preset=debug/monuseg`."""

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffseg.config.leaves import flat
from diffseg.errors import ConfigError


def expanded(leaves: dict[str, Any], network: str) -> dict[str, Any]:
    """The settings with a preset of the network replaced by what it stands for, which the others win over.

    Raises ConfigError if the network has no preset of that name.
    """
    if "preset" not in leaves:
        return leaves
    return settings(network, leaves["preset"]) | {key: value for key, value in leaves.items() if key != "preset"}


def settings(network: str, preset: str) -> dict[str, Any]:
    """The settings, by their dotted paths, that a preset of the network stands for."""
    tables = _tables().get(network, {})
    if preset not in names(network):
        raise ConfigError(
            f"{network} has no preset '{preset}': allowed are {', '.join(names(network))}"
            if tables
            else f"network.name: got '{network}'; allowed are {', '.join(_tables())}"
        )
    kind, _, name = preset.partition("/")
    found = flat(tables.get("all", {})) | flat(tables[f"published/{name}"])
    return found | (flat(tables["debug"]) if kind == "debug" else {})


def names(network: str) -> list[str]:
    """The presets of a network."""
    published = [name.removeprefix("published/") for name in _tables().get(network, {}) if "/" in name]
    return [f"{kind}/{name}" for kind in ("published", "debug") for name in published]


@lru_cache
def _tables() -> dict[str, dict[str, dict]]:
    return tomllib.loads((Path(__file__).parent / "presets.toml").read_text(encoding="utf-8"))
