"""The settings in which trials of a list differ, since the ends of their names, which are digests, say nothing."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

Tree = Mapping[str, Any]  # a configuration as JSON
IN_NAMES = ("seed", "inference.seeds")  # settings that the names of trials show
LONGEST = 40  # characters of a value that is shown


def distinguish(trees: Mapping[str, Tree]) -> dict[str, str]:
    """Return, for each trial, the settings in which those of its experiment, data set and network differ.

    They are written as the command line takes them, such as "diffusion.target=x0 inference.steps=5"; values that are too long
    for a line as "…".

    Args:
        trees: Configurations by the names of their trials.
    """
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, tree in trees.items():
        alike.setdefault(_place(tree), []).append(name)
    found = dict.fromkeys(trees, "")
    for names in alike.values():
        if len(names) > 1:
            found |= _describe_differences({name: trees[name] for name in names})
    return found


def _describe_differences(trees: Mapping[str, Tree]) -> dict[str, str]:
    """Return the settings that are not equal in all configurations."""
    from diffseg.config.leaves import flat  # imports pydantic

    leaves = {
        name: {path: format_setting(value) for path, value in flat(dict(tree)).items()} for name, tree in trees.items()
    }
    paths = dict.fromkeys(path for own in leaves.values() for path in own if path not in IN_NAMES)
    differing = [path for path in paths if len({own.get(path) for own in leaves.values()}) > 1]
    return {name: " ".join(_assign(own, differing)) for name, own in leaves.items()}


def _assign(leaves: Mapping[str, str], paths: Iterable[str]) -> list[str]:
    """Return PATH=VALUE for each path that a configuration has."""
    return [f"{path}={leaves[path] if len(leaves[path]) <= LONGEST else '…'}" for path in paths if path in leaves]


def _place(tree: Tree) -> tuple[Any, ...]:
    """Return what the names of trials show: experiment, data set and network."""
    sections = (tree.get(name) or {} for name in ("data", "network"))
    return tree.get("experiment"), *(section.get("name") for section in sections if isinstance(section, Mapping))


def format_setting(value: Any) -> str:
    """Return a setting's value as the command line takes it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
