"""Sentences about settings that cannot be read."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from diffseg.networks.registry import NETWORKS
from diffseg.suggestions import suggest


def shown(value: Any) -> str:
    """Return a value of any kind as one short line."""
    try:
        return json.dumps(value, default=str)[:80]
    except (ValueError, RecursionError):
        return "a value that is too long or nested too deeply"


def unknown(path: str, known: Iterable[str]) -> str:
    """Return the sentence for an unknown key: the keys that it may stand for, or all known ones."""
    return f"unknown configuration key '{path}': {suggest(path, known)}"


def explain(error: Mapping[str, Any], known: Callable[[str], Iterable[str]]) -> str:
    """Return one of pydantic's errors as a sentence. known: the settings of a configuration, by its network's name."""
    section, *parts = error["loc"] or ("",)
    network = parts.pop(0) if section == "network" and parts else "ensemdiff"  # pydantic names the network, too
    path = ".".join(map(str, (section, *parts)))
    if error["type"] == "extra_forbidden":
        return unknown(path, known(network))
    if error["type"] == "union_tag_invalid":
        return f"network.name: got {json.dumps(error['ctx']['tag'])}; allowed are {', '.join(NETWORKS)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    if isinstance(error["input"], dict):  # several settings of a section do not go together
        return f"{path}: {message}"
    return f"{path}: got {json.dumps(error['input'], default=str)[:80]}; {message[0].lower()}{message[1:]}"
