"""A trial of a study: its name, its configuration, and the role that it has in the study."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from diffseg.errors import ConfigError
from studies.store.study_json import unusable_definition

if TYPE_CHECKING:
    from diffseg.config import Config
    from studies.search.search import Rungs

ROLES = {
    "trial": "requested by the study file",
    "search": "proposed by a search, and scored on held-out images",
    "confirmation": "trains a search's proposal again with another seed, and is scored on the test images",
    "fingerprint": "an E3 trial, run only because other trials are weighted by its fingerprint",
    "replicate": "repeats a trial with another seed, only as a member of a deep ensemble",
}


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
    role: str = "trial"  # one of ROLES: why the study runs it

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

    def __init__(self, name: str, tree: dict[str, Any], role: str = "trial"):
        self.__dict__.update(name=name, tree=tree, role=role)

    @cached_property
    def config(self) -> Config:
        """The parsed configuration. Raises DefinitionError if this version cannot read it."""
        from diffseg import config  # takes long to import, and `status` needs none

        try:
            return config.load(self.tree)
        except ConfigError as error:
            raise unusable_definition(f"the study's definition of trial {self.name}", str(error)) from None


def needed_trials(config: Config) -> list[Trial]:
    """Return the trials that a configuration builds on: members of a deep ensemble, and E3 trials of a fingerprint."""
    needed = {"replicate": config.members(), "fingerprint": config.fingerprint_trials()}
    return [Trial(trial_name(one), one, role=role) for role, configs in needed.items() for one in configs]


def merge_trials(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """Return each trial once, in the order in which their names first occur.

    Of trials with one name the last counts, except that one which the study file requests outweighs those with other roles.
    """
    found: dict[str, Trial] = {}
    for trial in trials:
        if trial.role == "trial" or trial.name not in found or found[trial.name].role != "trial":
            found[trial.name] = trial
    return tuple(found.values())
