"""What a search proposes next, by Optuna. The study is rebuilt in memory from what was tried, and then forgotten.

A sampler's seed depends on the search's own seed, the proposal's number and the draw, so that a sequential search proposes
the same whether or not it was interrupted.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from diffseg.config import Config
from diffseg.errors import ConfigError
from search_spaces import SPACES, TRIED_FIRST
from studies.definition.trial import trial_name
from studies.search.search import Proposal, Search, Tried

DRAWS = 40  # how often a proposal that was made before is drawn anew
INFORMED = 10  # of these draws those by the search's sampler; later ones are random
GRID = 4  # values of a continuous setting in a grid

optuna.logging.set_verbosity(optuna.logging.ERROR)


def propose(search: Search, name: str, start: Config, tried: list[Tried]) -> Proposal | None:
    """The next thing to try, which may be refused, or None if all draws were tried before.

    name: of the search. start: the configuration that it starts from.
    """
    numbers = {one.proposal.number for one in tried}
    number = next(number for number in range(len(numbers) + 1) if number not in numbers)
    first = _tried_first(name, start)
    if number < len(first):
        return first[number]
    seen = {one.proposal.trial for one in tried} | {repr(one.proposal.settings) for one in tried}
    known = told(search, start, tried)
    for draw in range(DRAWS):
        settings = _drawn(search, known, seed=_seed(start.seed, number, draw), informed=draw < INFORMED)
        found = _proposal(name, number, start, search.sampler, settings)
        if found.trial not in seen - {None} and repr(settings) not in seen:
            return found
    return None


def _tried_first(name: str, start: Config) -> list[Proposal]:
    """The points that are tried first, without those that are one trial with an earlier one of them."""
    found: list[Proposal] = []
    for source, settings in TRIED_FIRST.items():
        proposal = _proposal(name, len(found), start, source, settings)
        if proposal.trial is None or proposal.trial not in {other.trial for other in found}:
            found.append(proposal)
    return found


def _proposal(name: str, number: int, start: Config, source: str, settings: dict) -> Proposal:
    try:
        config = start.with_leaves(settings).resolved()
    except ConfigError as error:
        return Proposal(name, number, start.seed, None, source, settings, None, f"refused: {error}")
    return Proposal(name, number, start.seed, trial_name(config), source, settings, config)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def told(search: Search, start: Config, tried: list[Tried]) -> list[FrozenTrial]:
    """What Optuna is told of a search, in its order: all but what its space cannot propose. Less is better in all values."""
    return [frozen for one in tried if (frozen := _told(search, start, one))]


def _drawn(search: Search, known: list[FrozenTrial], seed: int, informed: bool) -> dict:
    """Settings from the sampler, given all that was tried; not informed, at random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            directions=["minimize"] * len(search.objective),
            sampler=_sampler(search.sampler if informed else "random", seed),
        )
        study.add_trials(known)
        trial = study.ask()
        _space(search)(trial)
    return trial.params


def _sampler(name: str, seed: int) -> BaseSampler:
    if name == "tpe":  # group: conditional parameters are modelled together where they occur together
        return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
    return {"gp": GPSampler, "random": RandomSampler, "grid": BruteForceSampler}[name](seed=seed)


def _told(search: Search, start: Config, tried: Tried) -> FrozenTrial | None:
    """What Optuna is told of something tried; None if the space cannot propose it.

    Pruned trials are told with the losses on their way, what failed or was refused as infeasible, running ones as such.
    """
    found = parameters(search, start, tried.proposal)
    if found is None:
        return None
    if tried.status == "running":
        outcome = {"state": TrialState.RUNNING}
    elif tried.bad:
        reason = {"reason": tried.proposal.reason or tried.status}
        outcome = {"state": TrialState.PRUNED, "constraints": {"valid": 1.0}, "user_attrs": reason}
    elif tried.status == "pruned":
        outcome = {"state": TrialState.PRUNED, "intermediate_values": dict(tried.rungs)}
    else:
        outcome = {"state": TrialState.COMPLETE, "values": tried.losses}
    return create_trial(params=found.values, distributions=found.distributions, **outcome)


@dataclass(frozen=True)
class Parameters:
    values: dict
    distributions: dict[str, BaseDistribution]


def parameters(search: Search, start: Config, proposal: Proposal) -> Parameters | None:
    """The settings that the space itself would suggest, if these alone make the proposal's trial."""
    trial = FixedTrial(proposal.settings)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a value that is out of its range
            _space(search)(trial)
    except (ValueError, UserWarning):
        return None
    if proposal.config and start.with_leaves(trial.params).resolved() != proposal.config:
        return None
    return Parameters(trial.params, trial.distributions)


def _space(search: Search):
    space = SPACES[search.space]
    return (lambda trial: space(_Grid(trial))) if search.sampler == "grid" else space


class _Grid:
    """A trial that suggests a few values of what is continuous."""

    def __init__(self, trial):
        self.trial, self.suggest_categorical = trial, trial.suggest_categorical

    def suggest_float(self, name: str, low: float, high: float, log: bool = False) -> float:
        values = np.geomspace(low, high, GRID) if log else np.linspace(low, high, GRID)
        return self.trial.suggest_categorical(name, values.tolist())
