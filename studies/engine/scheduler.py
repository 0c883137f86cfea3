"""What is to be done next in a study, by the ledger: trials that it lacks, and for a search, what to try and to confirm."""

from diffseg.config import Config
from diffseg.errors import UserError
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.search.search import Proposal, Tried, fronts, history, proposals
from studies.store.compaction import compact_search_records
from studies.store.latest import LatestRows
from studies.store.ledger import Ledger
from studies.store.tables import METRICS

HOPELESS = 5  # trials without a value, and none with one, after which a search is not gone on with


class Agenda:
    """Asked anew whenever something has ended. With retry, failed trials are done once more."""

    def __init__(self, study: Study, ledger: Ledger, retry: bool = False):
        self.study, self.ledger = study, ledger
        self._latest = LatestRows(ledger, ["status", "error", *METRICS])
        rows = self._latest.rows() if retry else {}
        self._again = {trial: row["attempt"] for trial, row in rows.items() if row["status"] == "failed"}

    def next(self, busy: set[str] = frozenset()) -> Trial | None:
        """A trial to start beside those that are busy; None if there is none until one of them ends."""
        rows = self._ended()
        left = self._missing(rows)
        undone, training = {trial.name for trial in left}, {one.config.trained for one in left if one.name in busy}
        for trial in left:
            waits = undone.intersection(_needs(trial.config)) or trial.config.trained in training
            if trial.name not in busy and not waits:
                return trial
        for start in self.study.starts:
            while proposal := self._upcoming(start, rows, busy):
                proposal.record(self.ledger)
                compact_search_records(self.ledger)
                if proposal.config and not busy.intersection(_needs(proposal.config)):
                    trials = (*map(_alone, proposal.config.needs()), self.study.trial_of(proposal))
                    if left := [trial for trial in trials if trial.name not in rows]:
                        return left[0]
        return None

    def planned(self) -> list[Trial]:
        """What is known to be done yet, and the trials that searches start from, which what they will propose is like."""
        rows = self._ended()
        return [
            *self.study.starts,
            *(trial for trial in self.study.known_trials(self.ledger) if trial.name not in rows),
        ]

    def done(self) -> bool:
        """Whether there is nothing left to do."""
        rows = self._ended()
        return not self._missing(rows) and not any(self._upcoming(start, rows, set()) for start in self.study.starts)

    def problem(self) -> str | None:
        """Why a search is not gone on with, if it is not."""
        rows = self._ended()
        for start in self.study.starts:
            tried = self._tried(start, rows, proposals(self.ledger, start.name))
            if reason := self._hopeless(start.name, tried, rows):
                return reason
        return None

    def check(self) -> None:
        """Raises UserError if more was done than a search is to do."""
        for start in self.study.starts:
            count = sum(one.seed == start.config.seed for one in proposals(self.ledger, start.name))
            if count > self.study.search.budget:
                raise UserError(
                    f"the budget is {self.study.search.budget}, but {start.name} has {count} proposals already: "
                    f"a budget is a total, so give --budget {count} or more"
                )

    def _ended(self) -> dict[str, dict]:
        """The last attempt of each trial that has ended."""
        rows = self._latest.rows()
        return {trial: row for trial, row in rows.items() if row["attempt"] > self._again.get(trial, 0)}

    def _missing(self, rows: dict[str, dict]) -> list[Trial]:
        return [trial for trial in self.study.trials if trial.name not in rows]

    def _upcoming(self, start: Trial, rows: dict[str, dict], busy: set[str]) -> Proposal | None:
        """What a search does next: what it has proposed and not ended, then new proposals, then confirmations."""
        from studies.search.sampling import propose  # Optuna, which only a running search needs

        search, past = self.study.search, proposals(self.ledger, start.name)
        tried = self._tried(start, rows, past)
        if self._hopeless(start.name, tried, rows):
            return None
        waiting = [one for one in past if one.config and one.trial not in rows and one.trial not in busy]
        if waiting:
            return next((one for one in waiting if not busy.intersection(_needs(one.config))), None)
        if len(tried) < search.budget and (fresh := propose(search, start.name, start.config, tried)):
            return fresh
        if any(one.status == "running" for one in tried):
            return None
        wanted = self._confirmations(start, tried)
        return next((one for one in wanted if one.trial not in rows and one.trial not in busy), None)

    def _tried(self, start: Trial, rows: dict[str, dict], past: list[Proposal]) -> list[Tried]:
        """The proposals of a search, without confirmations, and what came of them, by their numbers. past: all of them."""
        return history(self.ledger, past, start.config.seed, self.study.search.objective, rows)

    def _hopeless(self, name: str, tried: list[Tried], rows: dict[str, dict]) -> str | None:
        """Why it makes no sense to go on with a search, if it does not."""
        ended = [one for one in tried if one.status != "running"]
        if not all(one.bad for one in ended) or len(ended) < min(HOPELESS, self.study.search.budget):
            return None
        if complete := [one for one in ended if one.status == "complete"]:
            objective = " and ".join(self.study.search.objective)
            return (
                f"no trial of {name} reports {objective} ({complete[-1].proposal.trial} is complete without): "
                "give another --objective, and a new --name"
            )
        last = ended[-1].proposal
        reason = last.reason or f"failed: {rows[last.trial]['error']}"
        return (
            f"all {len(ended)} trials of {name} that have ended failed or were refused, the last {reason}; "
            f"mend the cause, then `diffseg retry {self.study.name}`"
        )

    def _confirmations(self, start: Trial, tried: list[Tried]) -> list[Proposal]:
        """The best configurations and the baseline, on all training images, with fresh seeds."""
        best, seeds = self.study.search.confirmed
        measured = [one for one in tried if one.losses is not None]
        ranks = fronts([one.losses for one in measured])
        ranked = sorted(zip(ranks, measured, strict=True), key=lambda pair: (pair[0], pair[1].losses))
        chosen = [one.proposal for one in tried if one.proposal.number == 0 and one.proposal.config]
        chosen += [one.proposal for _, one in ranked if one.proposal.number > 0][:best]
        fresh = range(start.config.seed + 1, start.config.seed + 1 + seeds)
        return [_confirmation(proposal, seed) for seed in fresh for proposal in chosen] if best else []


def _confirmation(proposal: Proposal, seed: int) -> Proposal:
    config = proposal.config.with_leaves({"seed": seed, "data.held_out": 0.0}).resolved()
    return Proposal(
        proposal.search, proposal.number, seed, trial_name(config), proposal.source, proposal.settings, config
    )


def _needs(config: Config) -> set[str]:
    """The trials that must have ended before: those whose networks or fingerprints it uses."""
    return {trial_name(other) for other in config.needs()}


def _alone(config: Config) -> Trial:
    return Trial(trial_name(config), config)
