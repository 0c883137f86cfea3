"""The settings that a space may vary: all that E2 uses, of all networks."""

from collections.abc import Mapping
from functools import cache

from diffseg.config.describe import Setting, settings
from diffseg.networks.registry import NETWORKS
from diffseg.suggestions import find_nearest_part
from search_spaces.errors import SpaceError

SPACE = "search.space"
IMAGES = "all proposals are compared on the same held-out images"
MASKS = "all proposals are compared on the same masks"
MEASURED = "all proposals are measured in the same way"
CONSTANT = {  # setting → why no proposal may change it
    "experiment": "a search is one of E2",
    "seed": "confirmations repeat the best proposals with other seeds",
    "data.name": "every data set has a search of its own",
    **dict.fromkeys(("data.layout", "data.kind", "data.axis"), IMAGES),
    **dict.fromkeys(("data.split_seed", "data.train_images", "data.test_images", "data.calibration"), IMAGES),
    **dict.fromkeys(("data.held_out", "data.held_out_least"), IMAGES),
    "data.fold": f"{IMAGES} (search.folds measures each on several parts)",
    **dict.fromkeys(("data.foreground", "data.classes", "data.regions", "data.ignore", "data.objects"), MASKS),
    **dict.fromkeys(("data.test_crops", "inference.resolution", "inference.nsd_tolerance"), MEASURED),
}
AT_RUNGS = {  # setting → why no proposal may change it, although a fidelity may: its trials have no rungs
    "training.evaluations": "proposals are compared at rungs after the same shares of their training",
    "inference.evaluation_images": "proposals are compared at rungs on the same images",
}


def known_settings() -> dict[str, list[Setting]]:
    """Return every setting by its path. A setting of several networks has one row for each of its defaults."""
    return _list_settings(tuple(NETWORKS))


@cache
def _list_settings(networks: tuple[str, ...]) -> dict[str, list[Setting]]:
    """Return the settings while these networks are registered."""
    found: dict[str, list[Setting]] = {}
    for setting in settings():
        found.setdefault(setting.path, []).append(setting)
    return found


def check_setting(path: str, key: str, constant: Mapping[str, str] = CONSTANT | AT_RUNGS) -> None:
    """Raise SpaceError about the study file's `key` unless proposals may differ in the setting.

    constant: The settings that may not, and why.
    """
    if path not in known_settings():
        near = find_nearest_part(path, known_settings())
        hint = f"did you mean {' or '.join(near)}?" if near else "`diffseg settings` lists all"
        raise SpaceError(key, f"there is no setting {path[:80]}; {hint}")
    if path in constant:
        raise SpaceError(key, f"{path} cannot vary, since {constant[path]}; set it in [search.start]")
    if not any("e2" in one.experiments for one in known_settings()[path]):
        of = f", a setting of {', '.join(networks_of(path))}" if path.startswith("network.") else ""
        raise SpaceError(key, f"E2 does not use {path}{of}, so that varying it has no effect; leave it out")


def is_section(path: str) -> bool:
    """Return whether settings lie below a path, such as `training`."""
    return any(known.startswith(f"{path}.") for known in known_settings())


def kinds(path: str) -> set[str]:
    """Return the types of a setting: such as integer, number or text."""
    return set(" or ".join(one.type for one in known_settings()[path]).split(" or "))


def networks_of(path: str) -> list[str]:
    """Return the networks that have a setting."""
    return list(dict.fromkeys(name for one in known_settings()[path] for name in one.networks))
