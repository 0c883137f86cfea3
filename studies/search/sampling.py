"""The next proposal of a search, by Optuna. The Optuna study is rebuilt in memory from the ledger and then forgotten.

A sampler's seed depends on the search's own seed, the proposal's number and the draw, so that a sequential search proposes
the same whether or not it was interrupted.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from diffseg.config import Config
from diffseg.errors import ConfigError
from search_spaces import INITIAL_POINTS, SPACES
from studies.definition.trial import trial_name
from studies.search.proposals import EvaluatedProposal, Proposal
from studies.search.search import Search

DRAWS = 40  # tries to draw a proposal that was not made before
INFORMED = 10  # first ones of these draws, by the search's sampler; later ones are random
GRID = 4  # values of a continuous setting in a grid

optuna.logging.set_verbosity(optuna.logging.ERROR)


def propose(search: Search, name: str, start: Config, tried: list[EvaluatedProposal]) -> Proposal | None:
    """Return the next proposal, which may be a refused one; None if all draws were tried before.

    Args:
        name: Of the search.
        start: The configuration that the search starts from.
        tried: What the search has proposed so far.
    """
    numbers = {one.proposal.number for one in tried}
    number = next(number for number in range(len(numbers) + 1) if number not in numbers)
    first = _initial_proposals(name, start)
    if number < len(first):
        return first[number]
    seen = {one.proposal.trial for one in tried} | {repr(one.proposal.settings) for one in tried}
    known = to_optuna(search, start, tried)
    for draw in range(DRAWS):
        settings = _draw(search, known, seed=_derive_seed(start.seed, number, draw), informed=draw < INFORMED)
        found = _build_proposal(name, number, start, search.sampler, settings)
        if found.trial not in seen - {None} and repr(settings) not in seen:
            return found
    return None


def _initial_proposals(name: str, start: Config) -> list[Proposal]:
    """Propose the initial points, without those whose trial an earlier point has already."""
    found: list[Proposal] = []
    for source, settings in INITIAL_POINTS.items():
        proposal = _build_proposal(name, len(found), start, source, settings)
        if proposal.trial is None or proposal.trial not in {other.trial for other in found}:
            found.append(proposal)
    return found


def _build_proposal(name: str, number: int, start: Config, source: str, settings: dict[str, Any]) -> Proposal:
    """Apply settings to the start's configuration; a configuration that cannot be becomes a refused proposal."""
    try:
        config = start.with_leaves(settings).resolved()
    except ConfigError as error:
        return Proposal(name, number, start.seed, None, source, settings, None, f"refused: {error}")
    return Proposal(name, number, start.seed, trial_name(config), source, settings, config)


def _derive_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def to_optuna(search: Search, start: Config, tried: list[EvaluatedProposal]) -> list[FrozenTrial]:
    """Convert what a search has tried to Optuna's trials, in their order, without what its space cannot propose.

    Less is better in all values.
    """
    return [frozen for one in tried if (frozen := _to_frozen_trial(search, start, one))]


def _to_frozen_trial(search: Search, start: Config, tried: EvaluatedProposal) -> FrozenTrial | None:
    """Convert a proposal to Optuna's trial; None if the space cannot propose it.

    A pruned trial has its losses at rungs as intermediate values. A failed or refused one is infeasible: its constraint is
    violated.
    """
    found = find_parameters(search, start, tried.proposal)
    if found is None:
        return None
    outcome: dict[str, Any]
    if tried.status == "running":
        outcome = {"state": TrialState.RUNNING}
    elif tried.infeasible:
        reason = {"reason": tried.proposal.reason or tried.status}
        outcome = {"state": TrialState.PRUNED, "constraints": {"valid": 1.0}, "user_attrs": reason}
    elif tried.status == "pruned":
        outcome = {"state": TrialState.PRUNED, "intermediate_values": dict(tried.rungs)}
    else:
        outcome = {"state": TrialState.COMPLETE, "values": tried.losses}
    return create_trial(params=found.values, distributions=found.distributions, **outcome)


def _draw(search: Search, known: list[FrozenTrial], seed: int, informed: bool) -> dict[str, Any]:
    """Draw settings from the search's sampler, given the known trials; at random if not informed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            directions=["minimize"] * len(search.objective),
            sampler=_build_sampler(search.sampler if informed else "random", seed),
        )
        study.add_trials(known)
        trial = study.ask()
        _space(search)(trial)
    return trial.params


def _build_sampler(name: str, seed: int) -> BaseSampler:
    if name == "tpe":  # group: conditional parameters are modelled together where they occur together
        return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
    if name == "gp":
        return GPSampler(seed=seed)
    return RandomSampler(seed=seed) if name == "random" else BruteForceSampler(seed=seed)


@dataclass(frozen=True)
class Parameters:
    """Values of a space's parameters, and what they were drawn from."""

    values: dict[str, Any]
    distributions: dict[str, BaseDistribution]


def find_parameters(search: Search, start: Config, proposal: Proposal) -> Parameters | None:
    """Return the space's parameters that yield the proposal's trial; None if the space cannot propose it."""
    trial = FixedTrial(proposal.settings)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # raised for a value outside of its range
            _space(search)(trial)
    except (ValueError, UserWarning):
        return None
    if proposal.config and start.with_leaves(trial.params).resolved() != proposal.config:
        return None
    return Parameters(trial.params, trial.distributions)


def _space(search: Search) -> Callable[[Any], object]:
    """Return the function that asks a trial for the values of the search's space."""
    space = SPACES[search.space]
    return (lambda trial: space(_GridTrial(trial))) if search.sampler == "grid" else space


class _GridTrial:
    """A trial that chooses continuous settings among GRID values."""

    def __init__(self, trial: optuna.trial.BaseTrial):
        self.trial, self.suggest_categorical = trial, trial.suggest_categorical

    def suggest_float(self, name: str, low: float, high: float, log: bool = False) -> Any:
        """Choose among values that are equally far apart, or by equal factors if log."""
        values = np.geomspace(low, high, GRID) if log else np.linspace(low, high, GRID)
        return self.trial.suggest_categorical(name, values.tolist())
