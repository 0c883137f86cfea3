"""A study: the trials that should exist, and the searches that propose more. The store keeps its definition.

Configurations and searches are imported on first use, since `status` needs neither for most studies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diffseg.errors import ConfigError
from studies.definition.trial import StoredTrial, Trial, merge_trials, needed_trials
from studies.store.study_json import unusable_definition

if TYPE_CHECKING:
    from studies.search.priors import Prior
    from studies.search.proposals import Proposal
    from studies.search.search import Search
    from studies.search.stages import Stage
    from studies.store.ledger import Ledger


@dataclass(frozen=True)
class Study:
    """The desired state of a study. `run` compares it with the ledger and does what is missing."""

    name: str
    trials: tuple[Trial, ...]  # all trials except those that searches propose
    roots: dict[str, str]  # data set name to root folder or URI
    left_out: tuple[str, ...] = ()  # data sets of the study file that have no root
    command: str = ""  # the command line that defined the study
    search: Search | None = None
    starts: tuple[Trial, ...] = ()  # the trials that searches start from, one search each
    variants: dict[str, str] = field(default_factory=dict)  # trial name to variant, if the study file has variants
    baseline: str | None = None  # the variant that the others are compared with
    priors: dict[str, tuple[Prior, ...]] = field(
        default_factory=dict
    )  # of searches that take some, by their start trials

    def definition(self) -> dict[str, Any]:
        """Return the study as the JSON that `stored_study` reads."""
        trials, starts = ({trial.name: trial.tree for trial in some} for some in (self.trials, self.starts))
        search = self.search and self.search.model_dump(mode="json")
        return {
            "study": self.name,
            "roots": self.roots,
            "command": self.command,
            "trials": trials,
            "search": search,
            "starts": starts,
            "variants": self.variants,
            "baseline": self.baseline,
            "priors": {name: [one.model_dump(mode="json") for one in some] for name, some in self.priors.items()},
            "roles": {trial.name: trial.role for trial in self.trials if trial.role != "trial"},
        }

    @property
    def requested_trials(self) -> int:
        """The largest number of trials that the study may have."""
        return len(self.trials) + len(self.starts) * self.requested_per_search

    @property
    def requested_per_search(self) -> int:
        """The largest number of trials that each search may make: its budget and its confirmations."""
        if self.search is None:
            return 0
        return self.search.budget * self.search.stages + self.search.confirmations

    def known_trials(self, ledger: Ledger) -> tuple[Trial, ...]:
        """Return the trials that are known by now: those of the definition and those that searches have proposed."""
        if self.search is None:
            return self.trials
        from studies.search.history import list_begun

        found = [*self.trials]
        for proposal, stage in list_begun(self, ledger):
            found += [*needed_trials(stage.config), self.trial_of(proposal, stage)]
        return merge_trials(found)

    def trial_of(self, proposal: Proposal, stage: Stage) -> Trial:
        """Return one of a proposal's trials. Only its own is pruned at rungs; confirmations, which use the test images, are not."""
        if self.search is None or not stage.config.data.held_out:
            return Trial(stage.trial, stage.config, role="confirmation")
        own, config = stage.trial == proposal.trial, stage.config
        rungs = self.search.rungs(proposal.search, proposal.number, config.training) if own else None
        return Trial(stage.trial, config, rungs, role="search")


def stored_study(name: str, definition: dict[str, Any]) -> Study:
    """Return the study that a store's definition describes. Raises DefinitionError if its search cannot be used."""
    roles = definition.get("roles") or {}
    trials, starts = (
        tuple(
            StoredTrial(trial, config, roles.get(trial, "trial")) for trial, config in definition.get(key, {}).items()
        )
        for key in ("trials", "starts")
    )
    search = _stored_search(name, definition["search"]) if definition.get("search") else None
    roots, command, variants, baseline = (definition.get(key) for key in ("roots", "command", "variants", "baseline"))
    priors = {start: _stored_priors(name, trees) for start, trees in (definition.get("priors") or {}).items()}
    return Study(name, trials, roots or {}, (), command or "", search, starts, variants or {}, baseline, priors)


def _stored_priors(study: str, trees: list[dict[str, Any]]) -> tuple[Prior, ...]:
    from studies.search.priors import parse_priors

    return parse_priors(study, trees)


def _stored_search(study: str, settings: dict[str, Any]) -> Search:
    from studies.search.search import parse

    try:
        return parse(settings)
    except ConfigError as error:
        raise unusable_definition(f"the definition of study {study}", str(error)) from None
