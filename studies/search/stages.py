"""The trials of a proposal, one after another: cheaper ones first, then one for each part that is held out.

    [search]
    fidelities = [{ training.steps = 100, data.size = 32 }, { training.steps = 300 }]
    folds = 3

A proposal is first tried with the settings of each fidelity in turn. It goes on unless 1/n of the proposals there, n being
`pruning`, are ahead of it with the search's certainty: the rule of its rungs. The search's start always goes on. With `folds`, a
proposal is then trained again with other parts of the training images held out, and counts by its mean over the parts. Which trials
a proposal has, and which comes next, follows from the ledger alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from diffseg.config import Config
from diffseg.errors import ConfigError
from search_spaces import SpaceError
from studies.definition.trial import trial_name

if TYPE_CHECKING:
    from studies.search.proposals import Proposal
    from studies.search.search import Search

T = TypeVar("T")
KEY = "search.fidelities"


@dataclass(frozen=True)
class Stage:
    """One of a proposal's trials."""

    trial: str  # its name
    config: Config
    cheap: bool = False  # whether it has the settings of a fidelity
    label: str = ""  # which one it is, in words; empty if it is the only one


def list_stages(search: Search, proposal: Proposal) -> tuple[Stage, ...]:
    """Return the trials of a proposal in their order; none for a refused one, a single one for a confirmation.

    Raises ConfigError if a fidelity's settings do not go together with the proposal's.
    """
    if proposal.config is None or proposal.trial is None:
        return ()
    if search.stages == 1 or not proposal.config.data.held_out:
        return (Stage(proposal.trial, proposal.config),)
    cheap = (
        _derive_stage(proposal.config, settings, f"fidelity {place}", cheap=True)
        for place, settings in enumerate(search.fidelities, 1)
    )
    labels = [f"part {fold + 1} of {search.folds}" for fold in range(search.folds)] if search.folds > 1 else [""]
    folds = (_derive_stage(proposal.config, {"data.fold": fold}, labels[fold]) for fold in range(1, search.folds))
    return (*cheap, Stage(proposal.trial, proposal.config, label=labels[0]), *folds)


def _derive_stage(config: Config, settings: Mapping[str, Any], label: str, cheap: bool = False) -> Stage:
    derived = config.with_leaves(dict(settings)).resolved()
    return Stage(trial_name(derived), derived, cheap, label)


def list_ended(stages: Iterable[Stage], rows: Mapping[str, T]) -> list[T]:
    """Return the rows of the trials that have ended. rows: of the trials in the ledger, by their names."""
    return [rows[stage.trial] for stage in stages if stage.trial in rows]


def check_stages(search: Search, start: Config) -> None:
    """Raise ConfigError unless a search can try its start at every fidelity and on every part that is held out."""
    if search.fidelities:
        _check_fidelities(search, start)
    if search.folds > 1:
        _check_folds(search, start)


def _check_fidelities(search: Search, start: Config) -> None:
    leaves, varied = start.leaves(), search.space.paths
    for place, settings in enumerate(search.fidelities, 1):
        key = f"{KEY}.{place}"
        for path, value in settings.items():
            if path in varied:
                raise SpaceError(key, f"{path} is set by search.space, too: leave it out of one of them")
            if leaves.get(path) == value:
                raise SpaceError(key, f"{path} is {value} in the search's start, too: give a cheaper value")
            if path == "training.steps" and isinstance(value, int) and value > start.training.steps:
                raise SpaceError(
                    key, f"{path} is {value}, but {start.training.steps} in the search's start: give a smaller value"
                )
        try:
            start.with_leaves(search.space.fixed | settings).resolved()
        except ConfigError as error:
            raise SpaceError(key, str(error)) from None


def _check_folds(search: Search, start: Config) -> None:
    if start.data.fold:
        raise ConfigError(
            f"data.fold is {start.data.fold}, but with search.folds={search.folds} the search sets it: leave data.fold out"
        )
    try:
        start.with_leaves({"data.fold": search.folds - 1})
    except ConfigError as error:
        raise ConfigError(f"search.folds is {search.folds}, but of {error}") from None
