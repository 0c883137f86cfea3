"""The searches of studies: what they proposed and what came of it. Values are of the held-out images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.frames import records
from diffseg import config as configuration
from diffseg.config import Config
from diffseg.evaluation.registry import METRICS
from studies.search.constraints import column_of, describe_violations
from studies.search.history import EvaluatedProposal, EvaluatedSearch, History, RankedProposal, sort_proposals
from studies.search.priors import Prior, parse_priors, select_known
from studies.search.proposals import describe_settings
from studies.search.search import Search, parse
from studies.search.stopping import COLUMNS, explain_end
from studies.store.ledger import Ledger

PROPOSALS = [
    "study", "search", "dataset", "objective", "scored_on", "number", "source", "trial", "status", *METRICS, "rank", "estimate",
    "deviation", "settings", "error",
]  # fmt: skip


@dataclass(frozen=True)
class SearchHistory:
    """One search of a study: its settings, the trial it starts from, and its evaluated proposals."""

    ledger: Ledger
    search: Search
    name: str  # of the trial that it starts from
    start: Config
    tried: list[EvaluatedProposal]
    rows: dict[str, dict[str, Any]]  # of the ledger's `trials`, by name
    ranking: list[RankedProposal]
    priors: tuple[Prior, ...] = ()  # what it took from other studies

    @property
    def title(self) -> str:
        """The data set and the network."""
        return f"{self.start.data.name}, {self.start.network.name}"

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row for each proposal, without confirmations.

        Columns: number, source, trial (its own once that has begun, else its last fidelity), status (complete, pruned, failed,
        refused or running), words (its settings), error, the metrics (on the held-out images; NaN unless complete), rank by
        estimates (0 the best, or the front of several objectives; NaN without a value), estimate and deviation (of the first
        objective: shrunk towards the mean of all proposals, and its standard deviation; `studies.search.evidence`), hours (of all
        proposals until its end, one after the other), search, and the settings as columns.
        """
        hours, rows = 0.0, []
        for one in self.tried:
            row = self.row_of(one)
            hours += (row.get("seconds") or 0.0) / 3600
            rows.append(
                {
                    "number": one.proposal.number,
                    "source": one.proposal.source,
                    "trial": one.name_trial(self.rows),
                    "status": one.status,
                    "hours": hours,
                    **{metric: row.get(metric) if one.losses else None for metric in METRICS},
                    "words": describe_settings(one.proposal.settings),
                    "error": one.proposal.reason or row.get("error") or one.reason or self._violations(one) or None,
                }
                | one.proposal.settings
            )
        frame = pd.DataFrame(rows)
        ranked, metric = {one.proposal.number: one for one in self.ranking}, METRICS[self.search.objective[0]]
        own = [ranked.get(one.proposal.number) for one in self.tried]
        frame["rank"] = [one.rank if one else np.nan for one in own]
        frame["estimate"] = [metric.loss(one.estimates[0].loss) if one else np.nan for one in own]
        frame["deviation"] = [one.estimates[0].deviation if one else np.nan for one in own]
        frame["deviation"] = frame["deviation"].replace(np.inf, np.nan)
        frame[list(METRICS)] = frame[list(METRICS)].astype(float)
        return frame.assign(search=self.title)

    @cached_property
    def parameters(self) -> list[str]:
        """The settings that the sampler varies and that differ between proposals."""
        drawn = [one for one in self.tried if not one.proposal.tried_first] or self.tried
        names = dict.fromkeys(name for one in drawn for name in one.proposal.settings)
        return [name for name in names if len({repr(one.proposal.settings.get(name)) for one in self.tried}) > 1]

    @property
    def end(self) -> str:
        """Why the search has ended before its budget was used up; empty if it has not."""
        history = History(self.ledger, self.search, self.name, self.start)
        return explain_end(self.ledger.study, EvaluatedSearch(history, self.tried, self.rows), self.priors) or ""

    @property
    def taken(self) -> str:
        """How many proposals of other studies the sampler knew from the start; empty if none."""
        known = select_known(self.priors, next((one.data for one in self.tried if one.data), None))
        studies = " and ".join(dict.fromkeys(one.study for one in known))
        return f"the sampler also knew {len(known)} proposals of {studies}, measured on the same data" if known else ""

    def _violations(self, one: EvaluatedProposal) -> str:
        """Return the constraints that a complete trial violates, in words."""
        return describe_violations(self.search.constraints, one.limited_row(self.rows)) if one.losses else ""

    def row_of(self, one: EvaluatedProposal) -> dict[str, Any]:
        """Return the ledger's row of a proposal, for all its trials that have ended; empty if none has."""
        return one.combine_rows(self.rows)


def load_searches(ledgers: Iterable[Ledger]) -> list[SearchHistory]:
    """Return the searches of the studies that have proposed anything."""
    found = []
    for ledger in ledgers:
        definition = ledger.definition() or {}
        if not definition.get("search"):
            continue
        search = parse(definition["search"])
        limited = map(column_of, search.constraints)
        columns = list(dict.fromkeys([*COLUMNS, "steps", "data_digest", *METRICS, *limited]))
        rows = {row["trial"]: row for row in ledger.last_rows(columns)}
        for name, leaves in definition.get("starts", {}).items():
            start = configuration.load(leaves)
            history = History(ledger, search, name, start)
            if tried := history.evaluate(history.proposals(), rows):
                priors = parse_priors(ledger.study, (definition.get("priors") or {}).get(name, []))
                ranking = history.rank(tried)
                found.append(SearchHistory(ledger, search, name, start, tried, rows, ranking, priors))
    return found


def rank_proposals(searches: Iterable[SearchHistory], metric: str | None = None) -> pd.DataFrame:
    """Return all proposals of the searches, of each search the best first: by the metric, or by rank without one.

    Columns: study, search, dataset, objective (names, separated by commas), scored_on (held-out), and as in
    SearchHistory.frame number, source, trial, status, the metrics, rank, estimate, deviation, settings (in words) and error.
    """
    columns = ["number", "source", "trial", "status", *METRICS, "rank", "estimate", "deviation", "words", "error"]
    frames = []
    for one in searches:
        place = {"study": one.ledger.study, "search": one.name, "dataset": one.start.data.name}
        place |= {"objective": ", ".join(one.search.objective), "scored_on": "held-out"}
        order = [each.proposal.number for each in sort_proposals(one.tried, one.ranking, one.rows, metric)]
        frame = one.frame.set_index("number", drop=False).loc[order, columns].rename(columns={"words": "settings"})
        frames.append(pd.concat([pd.DataFrame(place, index=frame.index), frame], axis=1))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def best_proposals(ledger: Ledger, starts: list[str], metric: str | None, pareto: bool) -> list[dict[str, Any]]:
    """Return the proposals of the searches that start from these trials, as rows of `rank_proposals`.

    With pareto only the first front is returned.
    """
    found = rank_proposals(load_searches([ledger]), metric)
    if found.empty:
        return []
    found = found[found["search"].isin(starts)]
    if pareto:
        found = found[found["rank"] == 0]
    return records(found)


def sum_costs(searches: Iterable[SearchHistory]) -> pd.DataFrame:
    """Return what the searches took: search, status, trials, hours of computing, GPU hours and steps, a row for each status."""
    frames = []
    for one in searches:
        rows = [one.row_of(each) for each in one.tried]
        numbers = {"hours": "seconds", "gpu_hours": "gpu_seconds", "steps": "steps"}
        frame = pd.DataFrame({name: [row.get(column) or 0.0 for row in rows] for name, column in numbers.items()})
        frame[["hours", "gpu_hours"]] /= 3600
        frame = frame.assign(search=one.title, status=[each.status for each in one.tried], trials=1)
        frames.append(frame.groupby(["search", "status"], sort=False).sum().reset_index())
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
