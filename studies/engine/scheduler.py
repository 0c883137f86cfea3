"""The scheduler: it finds the next trial of a study in the ledger, either a missing one or one that a search proposes."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import TYPE_CHECKING

from diffseg.config import Config
from diffseg.errors import UserError
from diffseg.evaluation.registry import METRICS
from studies.definition.study import Study
from studies.definition.trial import Trial, needed_trials, trial_name
from studies.search.constraints import column_of
from studies.search.history import EvaluatedProposal, History, Rows
from studies.search.proposals import Proposal
from studies.search.search import Search, check_start
from studies.search.stages import Stage, list_stages
from studies.search.stopping import COLUMNS, reason_to_give_up, reason_to_stop
from studies.store.compaction import compact_search_records
from studies.store.latest import LatestRows
from studies.store.ledger import Ledger

if TYPE_CHECKING:
    from studies.search.sampling import Sampler


class Scheduler:
    """Names the next trial whenever it is asked, by what the ledger holds at that moment."""

    def __init__(self, study: Study, ledger: Ledger, retry: bool = False):
        """Schedule a study; with `retry`, trials that have failed so far are run once more."""
        self.study, self.ledger = study, ledger
        constraints = study.search.constraints if study.search else {}
        self._latest = LatestRows(ledger, [*COLUMNS, "data_digest", *METRICS, *map(column_of, constraints)])
        self._histories = {one.name: History(ledger, self._search, one.name, one.config) for one in study.starts}
        self._samplers: dict[str, Sampler] = {}
        rows = self._latest.rows() if retry else {}
        self._retried = {trial: row["attempt"] for trial, row in rows.items() if row["status"] == "failed"}

    def next_trial(self, busy: Set[str] = frozenset()) -> Trial | None:
        """Return a trial to start; None if there is none until a busy one ends.

        Proposals are recorded on the way. A trial waits for those whose networks or fingerprints it uses, and for a busy one
        whose training it shares.

        Args:
            busy: Names of the trials that run.
        """
        rows = self._ended()
        missing = self._missing(rows)
        undone, training = (
            {trial.name for trial in missing},
            {one.config.trained for one in missing if one.name in busy},
        )
        for trial in missing:
            waits = undone.intersection(_needs(trial.config)) or trial.config.trained in training
            if trial.name not in busy and not waits:
                return trial
        for start in self.study.starts:
            while found := self._next_proposal(start, rows, busy):
                proposal, stage = found
                proposal.record(self.ledger)
                compact_search_records(self.ledger)
                if stage and not busy & _needs(stage.config):
                    trials = (*needed_trials(stage.config), self.study.trial_of(proposal, stage))
                    if unended := [trial for trial in trials if trial.name not in rows]:
                        return unended[0]
        return None

    def planned(self) -> list[Trial]:
        """List the known trials that have not ended, and the start trials of searches.

        Start trials stand in for proposals that do not exist yet.
        """
        rows = self._ended()
        return [
            *self.study.starts,
            *(trial for trial in self.study.known_trials(self.ledger) if trial.name not in rows),
        ]

    def done(self) -> bool:
        """Whether nothing is left to do."""
        rows = self._ended()
        return not self._missing(rows) and not any(
            self._next_proposal(start, rows, set()) for start in self.study.starts
        )

    def problem(self) -> str | None:
        """Return why a search has ended early; None if none has."""
        rows = self._ended()
        for start in self.study.starts:
            tried = self._evaluate(start, rows)
            if reason := self._reason_to_give_up(start.name, tried, rows):
                return reason
        return None

    def check_searches(self) -> None:
        """Raise UserError if a search's space cannot be used, or if it has more proposals than its budget allows."""
        for start in self.study.starts:
            check_start(start.config, self._search)
            count = sum(one.seed == start.config.seed for one in self._histories[start.name].proposals())
            if count > self._search.budget:
                raise UserError(
                    f"the budget is {self._search.budget}, but {start.name} has {count} proposals already: "
                    f"a budget is a total, so give --budget {count} or more"
                )

    @property
    def limits_gpu_hours(self) -> bool:
        """Whether searches stop by the hours of GPUs that their trials take."""
        return bool(self.study.starts) and self._search.stop.gpu_hours is not None

    @property
    def _search(self) -> Search:
        """The search of a study that has start trials."""
        assert self.study.search is not None
        return self.study.search

    def _ended(self) -> Rows:
        """Read the last attempts of all trials that have ended. A failed trial to retry has not."""
        rows = self._latest.rows()
        return {trial: row for trial, row in rows.items() if row["attempt"] > self._retried.get(trial, 0)}

    def _missing(self, rows: Rows) -> list[Trial]:
        return [trial for trial in self.study.trials if trial.name not in rows]

    def _next_proposal(self, start: Trial, rows: Rows, busy: Set[str]) -> tuple[Proposal, Stage | None] | None:
        """Return the next proposal of a search, and the one of its trials that is next; no trial for a refused proposal.

        First come proposals that have not ended, then a new one, then confirmations.
        """
        history = self._histories[start.name]
        past = history.proposals()
        tried = history.evaluate(past, rows)
        if self._reason_to_give_up(start.name, tried, rows):
            return None
        unended = [(one.proposal, one.upcoming) for one in tried if one.upcoming]
        unended += self._find_unended((one for one in past if one.seed != start.config.seed), rows)
        if waiting := [(one, stage) for one, stage in unended if stage.trial not in busy]:
            return next(((one, stage) for one, stage in waiting if not busy & _needs(stage.config)), None)
        unfinished = len(tried) < self._search.budget and not reason_to_stop(self._search, start.name, tried, rows)
        if unfinished and (fresh := self._sampler(start).propose(tried)):
            return fresh, next(iter(list_stages(self._search, fresh)), None)
        if any(one.status == "running" for one in tried):
            return None
        confirmations = self._find_unended(history.confirmations(tried), rows)
        return next(((one, stage) for one, stage in confirmations if stage.trial not in busy), None)

    def _find_unended(self, confirmations: Iterable[Proposal], rows: Rows) -> list[tuple[Proposal, Stage]]:
        """Return the confirmations that have not ended, with their trials."""
        stages = ((one, stage) for one in confirmations for stage in list_stages(self._search, one))
        return [(one, stage) for one, stage in stages if stage.trial not in rows]

    def _evaluate(self, start: Trial, rows: Rows) -> list[EvaluatedProposal]:
        """Evaluate the proposals of a search, without confirmations."""
        history = self._histories[start.name]
        return history.evaluate(history.proposals(), rows)

    def _sampler(self, start: Trial) -> Sampler:
        """Return the sampler of a search."""
        from studies.search.sampling import Sampler  # Optuna, which only a running search needs

        if start.name not in self._samplers:
            self._samplers[start.name] = Sampler(
                self._search, start.name, start.config, self.study.priors.get(start.name, ())
            )
        return self._samplers[start.name]

    def _reason_to_give_up(self, name: str, tried: list[EvaluatedProposal], rows: Rows) -> str | None:
        """Return why a search ends early: its trials fail, or do not report the objective. None if it continues."""
        return reason_to_give_up(self.study.name, self._search, name, tried, rows)


def _needs(config: Config) -> set[str]:
    """Name the trials that must have ended before: those whose networks or fingerprints a configuration uses."""
    return {trial_name(other) for other in config.needs()}
