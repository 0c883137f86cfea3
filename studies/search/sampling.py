"""The next proposal of a search, by Optuna. Optuna's study is rebuilt in memory from the ledger for each proposal.

A sampler's seed depends on the search's own seed, the proposal's number and the draw, so that a sequential search proposes
the same whether or not it was interrupted.
"""

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from diffseg.config import Config
from diffseg.errors import ConfigError
from search_spaces import INITIAL_POINTS, SHIPPED, SettingsTrial, SpaceError, draw_settings
from search_spaces.trial import Trial, encode
from studies.definition.trial import trial_name
from studies.search.constraints import find_violation
from studies.search.history import EvaluatedProposal
from studies.search.priors import Prior, select_known
from studies.search.proposals import FROM, POINT, START, Proposal
from studies.search.search import Search
from studies.search.stages import list_stages

DRAWS = 40  # tries to draw a proposal that was not made before
INFORMED = 10  # first ones of these draws, by the search's sampler; later ones are random

optuna.logging.set_verbosity(optuna.logging.ERROR)


class KnownTrial(FrozenTrial):
    """A trial that does not change any more, so that Optuna's storage may share its values.

    Deep copies of all known trials took two thirds of the time of the 200th proposal.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTrial:
        return copy.copy(self)


@dataclass(frozen=True)
class Parameters:
    """Values of a space's parameters, and what they were drawn from."""

    values: dict[str, Any]
    distributions: dict[str, BaseDistribution]


def propose(search: Search, name: str, start: Config, tried: list[EvaluatedProposal]) -> Proposal | None:
    """Return the next proposal of a search, as `Sampler.propose` does."""
    return Sampler(search, name, start).propose(tried)


class Sampler:
    """Makes the proposals of one search. What has ended is converted to Optuna's trials once."""

    def __init__(self, search: Search, name: str, start: Config, priors: tuple[Prior, ...] = ()):
        """Sample for a search.

        Args:
            name: Of the search.
            start: The configuration that the search starts from.
            priors: What it takes from other studies.
        """
        self.search, self.name, self.start, self.priors = search, name, start, priors
        self._settings = start.leaves()
        self._first: list[Proposal] | None = None
        self._converted: dict[int, tuple[EvaluatedProposal, FrozenTrial | None]] = {}  # by number
        self._known: dict[str | None, list[FrozenTrial]] = {}  # trials of other studies, by the digest of the own data
        self._seen: dict[int, tuple[Proposal, str]] = {}  # with its settings as text, by number

    def propose(self, tried: list[EvaluatedProposal]) -> Proposal | None:
        """Return the next proposal, which may be a refused one; None if all draws were tried before.

        tried: What the search has proposed so far.
        """
        numbers = {one.proposal.number for one in tried}
        number = next(number for number in range(len(numbers) + 1) if number not in numbers)
        if number < len(first := self.initial_proposals()):
            return first[number]
        seen = {one.proposal.trial for one in tried} | {self._settings_text(one.proposal) for one in tried}
        data = next((one.data for one in tried if one.data), None)
        known = [*self.convert_priors(data), *self.to_optuna(tried)]
        for draw in range(DRAWS):
            seed = _derive_seed(self.start.seed, number, draw)
            found = self._draw(known, number, seed, informed=draw < INFORMED)
            if found.trial not in seen - {None} and repr(found.settings) not in seen:
                return found
        return None

    def _settings_text(self, proposal: Proposal) -> str:
        known, text = self._seen.get(proposal.number, (None, ""))
        if known is not proposal:
            text = repr(proposal.settings)
            self._seen[proposal.number] = proposal, text
        return text

    def initial_proposals(self) -> list[Proposal]:
        """Propose the points tried first, without those whose trial an earlier point has already.

        A shipped space has the shipped points, any other space has the start itself; the user's own points follow, and then the
        best of other studies.
        """
        if self._first is not None:
            return self._first
        space, own = self.search.space, enumerate(self.search.points, 1)
        points = [*INITIAL_POINTS.items()] if space.name in SHIPPED else [(START, dict[str, Any]())]
        points += [(f"{POINT}{place}", settings) for place, settings in own]
        points += [(f"{FROM}{one.study}", one.settings) for one in self.priors if one.first]
        found: list[Proposal] = []
        for source, settings in points:
            proposal = self._build_proposal(len(found), source, space.fixed | settings)
            if proposal.trial is None or proposal.trial not in {other.trial for other in found}:
                found.append(proposal)
        self._first = found
        return found

    def draw_randomly(self, count: int) -> list[Proposal]:
        """Return proposals with random settings of the space, which Optuna knows nothing of."""
        return [self._build_proposal(seed, "random", draw_settings(self._suggest, seed)) for seed in range(count)]

    def convert_priors(self, data: str | None) -> list[FrozenTrial]:
        """Convert the priors whose values compare with those on the data of a digest to Optuna's trials."""
        if data not in self._known:
            known = self._known[data] = list[FrozenTrial]()
            for one in select_known(self.priors, data):
                proposal = self._build_proposal(one.number, f"{FROM}{one.study}", one.settings)
                if frozen := self.to_frozen_trial(EvaluatedProposal(proposal, "complete", one.losses, (), one.excess)):
                    frozen.user_attrs = {"from": one.study, "number": one.number}
                    known.append(frozen)
        return self._known[data]

    def adopt(self, config: Config, varied: Iterable[str]) -> dict[str, Any] | None:
        """Return the settings with which this space proposes what another search has tried; None if it cannot.

        Args:
            config: A configuration of the other search.
            varied: The settings that the other search set, by their paths. These must be the same here.
        """
        theirs = config.leaves()
        found = self._ask(self._settings | theirs | self.search.space.fixed)
        if found is None:
            return None
        try:
            own = self.start.with_leaves(found[0].settings).resolved().leaves()
        except ConfigError:
            return None
        return found[0].settings if all(own.get(path) == theirs.get(path) for path in varied) else None

    def to_optuna(self, tried: list[EvaluatedProposal]) -> list[FrozenTrial]:
        """Convert what the search has tried to Optuna's trials, in their order, without what its space cannot propose.

        Less is better in all values.
        """
        for one in tried:
            known, _ = self._converted.get(one.proposal.number, (None, None))
            if known is not one:
                self._converted[one.proposal.number] = one, self.to_frozen_trial(one)
        converted = [self._converted[one.proposal.number][1] for one in tried]
        return [frozen for frozen in converted if frozen is not None]

    def to_frozen_trial(self, tried: EvaluatedProposal) -> FrozenTrial | None:
        """Convert a proposal to Optuna's trial; None if the space cannot propose it.

        A pruned trial has its losses at rungs as intermediate values. A complete one has its excess over each constraint. A
        failed or refused one is infeasible: its constraint is violated.
        """
        found = self.find_parameters(tried.proposal)
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
            outcome = {"state": TrialState.COMPLETE, "values": tried.losses, "constraints": tried.excess}
        trial = create_trial(params=found.values, distributions=found.distributions, **outcome)
        trial.__class__ = KnownTrial
        return trial

    def find_parameters(self, proposal: Proposal) -> Parameters | None:
        """Return the space's parameters that yield the proposal's trial; None if the space cannot propose it.

        Settings that a point tried first leaves out have the values of its configuration.
        """
        known = (proposal.config.leaves() if proposal.config else self._settings) | proposal.settings
        found = self._ask(known, self.search.sampler == "grid")
        if found is None:
            return None
        asked, trial = found
        if proposal.config and self.start.with_leaves(asked.settings).resolved() != proposal.config:
            return None
        return Parameters(trial.params, trial.distributions)

    def _ask(self, known: dict[str, Any], grid: bool = False) -> tuple[SettingsTrial, FixedTrial] | None:
        """Ask the space for these settings; None if it lacks one, or has one that is outside of its range."""
        trial = FixedTrial({path: encode(value) for path, value in known.items()})
        asked = SettingsTrial(trial, grid)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # raised for a value outside of its range
                self._suggest(asked)
        except (ValueError, UserWarning, KeyError, SpaceError):
            return None
        return asked, trial

    def _build_proposal(self, number: int, source: str, settings: dict[str, Any]) -> Proposal:
        """Apply settings to the start's configuration; a configuration that cannot be becomes a refused proposal."""
        try:
            config = self.start.with_leaves(settings).resolved()
            found = Proposal(self.name, number, self.start.seed, trial_name(config), source, settings, config)
            list_stages(self.search, found)
            reason = find_violation(self.search.constraints, config)
        except ConfigError as error:
            reason = str(error)
        return self._refuse(number, source, settings, f"refused: {reason}") if reason else found

    def _refuse(self, number: int, source: str, settings: dict[str, Any], reason: str) -> Proposal:
        return Proposal(self.name, number, self.start.seed, None, source, settings, None, reason)

    def _draw(self, known: list[FrozenTrial], number: int, seed: int, informed: bool) -> Proposal:
        """Draw a proposal from the search's sampler, given the known trials; at random if not informed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                directions=["minimize"] * len(self.search.objective),
                sampler=_build_sampler(self.search.sampler if informed else "random", seed),
            )
            study.add_trials(known)
            asked = SettingsTrial(study.ask(), self.search.sampler == "grid")
            try:
                self._suggest(asked)
            except SpaceError as error:  # of a user's function
                return self._refuse(number, self.search.sampler, asked.settings, f"refused: {error}")
        return self._build_proposal(number, self.search.sampler, asked.settings)

    def _suggest(self, trial: Trial) -> None:
        self.search.space.suggest(trial, self._settings)


def _derive_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _build_sampler(name: str, seed: int) -> BaseSampler:
    if name == "tpe":  # group: conditional parameters are modelled together where they occur together
        return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
    if name == "gp":
        return GPSampler(seed=seed)
    return RandomSampler(seed=seed) if name == "random" else BruteForceSampler(seed=seed)
