"""A trial of a study: its name and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from diffseg.errors import ConfigError
from studies.store.study_json import unusable_definition

if TYPE_CHECKING:
    from diffseg.config import Config
    from studies.search.search import Rungs


def trial_name(config: Config) -> str:
    """Return the trial's name: experiment, data set, network, seeds and the first eight digits of the digest."""
    seeds = "+".join(map(str, config.inference.seeds or (config.seed,)))
    return f"{config.experiment}-{config.data.name}-{config.network.name}-s{seeds}-{config.digest[:8]}"


def scored_images(held_out: object) -> str:
    """Return which images a trial with this `data.held_out` is scored on: test or held-out."""
    return "held-out" if held_out else "test"


@dataclass(frozen=True)
class Trial:
    """A configuration to train and evaluate, under the name that its files have in the store."""

    name: str
    config: Config
    rungs: Rungs | None = None  # how a search prunes it; None outside of searches

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The configuration as JSON."""
        return self.config.model_dump(mode="json")

    @property
    def scored_on(self) -> str:
        """The images that its metrics are computed on: test, or held-out, which are training images kept out of training."""
        return scored_images(self.setting("data", "held_out"))

    @property
    def steps(self) -> int | None:
        """The number of training steps; None if the stored configuration does not say."""
        found = self.setting("training", "steps")
        return found if isinstance(found, int) and found > 0 else None

    def setting(self, section: str, key: str) -> Any:
        """Return a setting of the stored configuration, which another version may have written; None if it is missing."""
        found = self.tree.get(section)
        return found.get(key) if isinstance(found, dict) else None


class StoredTrial(Trial):
    """A trial of a stored study. Its configuration is parsed on first use, since a store may hold ten thousand."""

    def __init__(self, name: str, tree: dict[str, Any]):
        self.__dict__.update(name=name, tree=tree)

    @cached_property
    def config(self) -> Config:
        """The parsed configuration. Raises DefinitionError if this version cannot read it."""
        from diffseg import config  # takes long to import, and `status` needs none

        try:
            return config.load(self.tree)
        except ConfigError as error:
            raise unusable_definition(f"the study's definition of trial {self.name}", str(error)) from None
