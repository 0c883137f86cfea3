"""The expansion of a study file's tables into trials: one for each network, data set, experiment, variant and seed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffseg.config import NETWORKS, Config
from diffseg.config.diffusion import FINGERPRINT
from diffseg.config.leaves import flat
from diffseg.config.presets import expanded
from diffseg.errors import ConfigError, UserError
from search_spaces import expand_grid
from studies.definition.folder_settings import fill_in
from studies.definition.shipped import layout_of
from studies.definition.trial import Trial, merge_trials, needed_trials, trial_name

EXPERIMENTS = ["e1", "e2", "e3", "e4"]
MOST_TRIALS = 50_000  # the definition of so many trials has 100 MB
TABLES = ("network", "data", "experiment", "variant")  # of a study file; later ones override earlier ones

Settings = dict[str, Any]  # by their dotted paths


@dataclass(frozen=True)
class Description:
    """What a study is expanded from: a study file, the data sets that can be read, and the command line's settings."""

    path: Path
    tables: dict[str, Any]
    data_sets: dict[str, dict[str, Any]]  # name to the settings of its table
    settings: Settings
    roots: dict[str, str]  # data set name to root folder or URI
    start: Settings = field(default_factory=dict)  # of the table [search.start], which the command line's override
    keeps_fingerprint: bool = False  # whether trials keep the settings of a fingerprint that they do not use themselves

    def with_tables(self, **tables: Any) -> "Description":
        """Return the description with other tables in place of its own."""
        return replace(self, tables=self.tables | tables)

    def axes(self) -> dict[str, list[Any]]:
        """Return the values that vary from trial to trial. Raises UserError if they make more than MOST_TRIALS trials."""
        tables, settings = self.tables, self.start | self.settings
        axes = {
            "network": [settings["network"]]
            if "network" in settings
            else list(tables.get("network", {"ensemdiff": {}})),
            "data": list(self.data_sets),
            "experiment": tables.get("experiments", EXPERIMENTS),
            "variant": list(tables.get("variant", {"": {}})),
            "seed": tables.get("seeds", [0]),
        }
        if (count := math.prod(map(len, axes.values()))) > MOST_TRIALS:
            raise UserError(
                f"{self.path} describes {count:,} trials, but a study has at most {MOST_TRIALS:,}: "
                "give fewer seeds or variants"
            )
        return axes

    def trials(self) -> tuple[Trial, ...]:
        """Return every distinct trial, each after the trials that it needs. Raises ConfigError for a bad setting."""
        return merge_trials(self._expand())

    def _expand(self) -> Iterator[Trial]:
        """Yield a trial, and before it those that it needs, for every point of the axes."""
        axes = self.axes()
        for choice in expand_grid(axes):
            network = NETWORKS.get(choice["network"])
            if network is not None and choice["experiment"] not in network.experiments:
                continue
            config = self._config(choice, axes["network"])
            yield from needed_trials(config)
            yield Trial(trial_name(config), config)

    def _config(self, choice: dict[str, Any], networks: list[str]) -> Config:
        """Return the configuration of one point of the axes."""
        network, data, experiment = choice["network"], choice["data"], choice["experiment"]
        leaves = {"network.name": network, "data.name": data, "experiment": experiment, "seed": choice["seed"]}
        root = self.roots.get(data)
        if root:  # unless the study or the command line gives the layout
            leaves["data.layout"] = layout_of(data, root)
        tables = [
            self.data_sets[data] if axis == "data" else self.tables.get(axis, {}).get(choice[axis], {})
            for axis in TABLES
        ]
        tables = [flat(table) for table in (self.tables.get("all", {}), *tables)]
        try:
            for table in _use_debug_presets(
                tables, _settings_of_network(self.start | self.settings, network, networks)
            ):
                leaves |= expanded(table, network)
            if root and leaves["data.layout"] == "synthetic":
                raise ConfigError(
                    f"data set {data} has the root {root}, but data.layout=synthetic draws its images: give data.layout, such as "
                    f"folder, or leave out --data {data}=…"
                )
            config = Config().with_leaves(fill_in(leaves, root))
            return _keep_fingerprint(config) if self.keeps_fingerprint else config.resolved()
        except ConfigError as error:
            raise ConfigError(f"{error} ({self._locate(str(error))}, {experiment} of {data})") from None

    def _locate(self, message: str) -> str:
        """Return where the setting that a message names was given."""
        if any(key in message for key in self.settings):
            return "the command line"
        return f"[search.start] of {self.path.name}" if any(key in message for key in self.start) else self.path.name


def _keep_fingerprint(config: Config) -> Config:
    """Return the resolved configuration, which keeps the settings of a fingerprint for trials that are made from it."""
    found = config.resolved()
    if found.fingerprint_trials():
        return found
    kept = {name: getattr(config.diffusion, name) for name in FINGERPRINT}
    return found.model_copy(update={"diffusion": found.diffusion.model_copy(update=kept)})


def available_data_sets(tables: dict[str, Any], roots: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the tables of the data sets that can be read: synthetic ones, those with a root, and the user's own folders."""
    listed = tables.get("data", {})
    synthetic = {name for name, leaves in listed.items() if flat(leaves).get("data.layout") == "synthetic"}
    own: dict[str, dict[str, Any]] = {name: {} for name in roots if name not in listed}
    return {name: leaves for name, leaves in {**listed, **own}.items() if name in roots or name in synthetic}


def _settings_of_network(settings: Settings, network: str, networks: list[str]) -> Settings:
    """Drop the settings that only other networks of the study have, such as network.epochs of nnU-Net."""

    def has(name: str, key: str) -> bool:
        return name in NETWORKS and key.removeprefix("network.") in NETWORKS[name].model_fields

    return {
        key: value
        for key, value in settings.items()
        if not key.startswith("network.") or has(network, key) or not any(has(other, key) for other in networks)
    }


def _use_debug_presets(tables: list[Settings], settings: Settings) -> list[Settings]:
    """Return the tables and then the settings. With preset=debug, each table's preset becomes its debug twin."""
    if settings.get("preset") != "debug":
        return [*tables, settings]
    twins = [
        table | {"preset": str(table["preset"]).replace("published/", "debug/")} if "preset" in table else table
        for table in tables
    ]
    return [*twins, {key: value for key, value in settings.items() if key != "preset"}]
