"""What a search has tried and what came of it, read from the ledger. What has ended is read and evaluated once."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pyarrow.dataset as ds

from diffseg.config import Config
from diffseg.evaluation.pareto import Point, losses, ranks
from diffseg.evaluation.registry import METRICS
from diffseg.rows import Row
from studies.definition.trial import trial_name
from studies.search.constraints import column_of, compute_excess
from studies.search.evidence import (
    Estimate,
    Scores,
    collect_scores,
    estimate_losses,
    find_evidence,
    is_surely_better,
    join_scores,
)
from studies.search.proposals import Proposal, parse_proposal, read_proposals
from studies.search.search import Search
from studies.search.stages import Stage, list_ended, list_stages
from studies.store.ledger import Ledger

if TYPE_CHECKING:
    from studies.definition.study import Study

SUMMED = ("seconds", "gpu_seconds", "evaluate_seconds", "steps")  # columns of trials

Rows = dict[str, dict[str, Any]]  # a row of each trial, by the trial's name
Rung = tuple[int, float]  # step and loss


@dataclass(frozen=True)
class EvaluatedProposal:
    """A proposal and what came of it."""

    proposal: Proposal
    status: str  # complete, pruned, failed, refused or running
    losses: tuple[float, ...] | None = None  # of a complete trial that has measured all objectives
    rungs: tuple[Rung, ...] = ()  # steps and losses at rungs; of a single objective only
    excess: dict[str, float] = field(
        default_factory=dict
    )  # over each constraint, as a share of it; of a complete trial
    data: str | None = None  # digest of its data set; of a complete trial
    stages: tuple[Stage, ...] = ()  # all its trials, in their order
    parts: dict[str, Point] = field(
        default_factory=dict
    )  # losses on each part that was held out, by trial; if complete
    upcoming: Stage | None = None  # the trial that runs, or that is to run next
    reason: str | None = None  # why it does not go on from a fidelity

    def combine_rows(self, rows: Rows) -> dict[str, Any]:
        """Return one row for all its trials that have ended; empty if none has.

        Sums of what they took; metrics are means over the parts that were held out. All else is the last trial's.
        """
        ended = list_ended(self.stages, rows)
        if len(ended) < 2:
            return ended[0] if ended else {}
        parts = list_ended((stage for stage in self.stages if not stage.cheap), rows)
        means = {name: _mean([row.get(name) for row in parts]) for name in METRICS if name in ended[-1]}
        sums = {name: sum(row.get(name) or 0.0 for row in ended) for name in SUMMED if name in ended[-1]}
        return ended[-1] | means | sums

    def name_trial(self, rows: Rows) -> str | None:
        """Return the name of its own trial once that has begun, before that of its last fidelity; None if it was refused."""
        begun = [stage.trial for stage in self.stages if stage.trial in rows or stage == self.upcoming]
        return self.proposal.trial if self.proposal.trial in begun or not begun else begun[-1]

    def limited_row(self, rows: Rows) -> dict[str, Any]:
        """Return the row that constraints are on; empty if its own trial has not ended.

        It is that of its own trial, without its fidelities and other parts, but with the means of metrics over the parts.
        """
        own, combined = rows.get(self.proposal.trial or "", {}), self.combine_rows(rows)
        return own | {name: combined[name] for name in METRICS if name in own}

    @property
    def infeasible(self) -> bool:
        """Whether it ended without a value: it failed, was refused, or did not measure all objectives."""
        return self.status in ("failed", "refused") or (self.status == "complete" and self.losses is None)

    @property
    def eligible(self) -> bool:
        """Whether it may be the best: it has a value and keeps all constraints."""
        return self.losses is not None and not any(excess > 0 for excess in self.excess.values())


@dataclass(frozen=True)
class RankedProposal:
    """A proposal that may be the best, and what its values on held-out images say of it."""

    proposal: Proposal
    rank: int  # 0: the best, or of the front of several objectives
    estimates: tuple[Estimate, ...]  # of the objectives' losses


def list_begun(study: Study, ledger: Ledger) -> list[tuple[Proposal, Stage]]:
    """Return the trials of the proposals of a study's searches that have begun or are next, confirmations included."""
    search = study.search
    assert search is not None
    if search.stages == 1:
        return [(one, stage) for one in read_proposals(ledger) for stage in list_stages(search, one)]
    found = list[tuple[Proposal, Stage]]()
    for one in read_searches(study, ledger):
        for tried in one.tried:
            begun = [stage for stage in tried.stages if stage.trial in one.rows or stage == tried.upcoming]
            found += [(tried.proposal, stage) for stage in begun]
        confirmations = [other for other in one.history.proposals() if other.seed != one.history.start.seed]
        found += [(other, stage) for other in confirmations for stage in list_stages(search, other)]
    return found


@dataclass(frozen=True)
class EvaluatedSearch:
    """One search of a study, and what its proposals have come to."""

    history: History
    tried: list[EvaluatedProposal]  # in their order, without confirmations
    rows: Rows  # of the ledger's trials


def read_searches(study: Study, ledger: Ledger, columns: Collection[str] = ()) -> Iterator[EvaluatedSearch]:
    """Yield the searches of a study, evaluated.

    columns: Of the ledger's trials, besides those that the evaluation needs.
    """
    if study.search is None or not study.starts:
        return
    needed = {"status", *study.search.objective, *map(column_of, study.search.constraints), *columns}
    rows = {row["trial"]: row for row in ledger.last_rows(needed)}
    for start in study.starts:
        history = History(ledger, study.search, start.name, start.config)
        yield EvaluatedSearch(history, history.evaluate(history.proposals(), rows), rows)


def sort_proposals(
    tried: Sequence[EvaluatedProposal], ranking: Sequence[RankedProposal], rows: Rows, metric: str | None = None
) -> list[EvaluatedProposal]:
    """Sort proposals, the best first: by their ranking, or by their mean of a metric; then those that have no rank.

    Args:
        tried: What `History.evaluate` returned.
        ranking: What `History.rank` returned.
        rows: Of the ledger's trials, with the metric.
        metric: One of METRICS.
    """
    places = {one.proposal.number: place for place, one in enumerate(ranking)}

    def key(one: EvaluatedProposal) -> tuple[bool, float, float, int]:
        number, value = one.proposal.number, one.combine_rows(rows).get(metric or "") if one.losses else None
        loss = METRICS[metric].loss(value) if metric and value is not None and not math.isnan(value) else math.inf
        return number not in places, loss, places.get(number, math.inf), number

    return sorted(tried, key=key)


class History:
    """The proposals of one search, in their order."""

    def __init__(self, ledger: Ledger, search: Search, name: str, start: Config):
        """Read a search from its ledger.

        Args:
            name: Of the trial that the search starts from.
            start: Its configuration.
        """
        self.ledger, self.search, self.name, self.start = ledger, search, name, start
        self._parsed: dict[tuple[int, int], tuple[dict[str, Any], Proposal]] = {}  # by number and seed
        self._scores: dict[str, Scores] = {}  # of complete trials, by name
        self._stages: dict[int, tuple[Proposal, tuple[Stage, ...]]] = {}  # of its own proposals, by number
        self._ended: dict[int, tuple[list[dict[str, Any]], EvaluatedProposal]] = {}  # with its trials' rows, by number

    def proposals(self) -> list[Proposal]:
        """Return all proposals that the ledger holds now, confirmations included."""
        return [self._parse(row) for row in self.ledger.records("proposals", self.name)]

    def evaluate(self, proposals: list[Proposal], rows: Rows) -> list[EvaluatedProposal]:
        """Evaluate proposals, without confirmations.

        Args:
            proposals: What `proposals` returned.
            rows: Of the trials in the ledger. A trial without one is running.
        """
        own = [one for one in proposals if one.seed == self.start.seed]
        fresh = [one for one in own if self._find_ended(one, rows) is None]
        rungs = self._read_rungs() if fresh and len(self.search.objective) == 1 else {}
        for one in fresh:
            evaluated = self._evaluate(one, rows, tuple(sorted(rungs.get(one.trial or "", ()))))
            self._ended[one.number] = list_ended(self.stages(one), rows), evaluated
        found = [self._ended[one.number][1] for one in own]
        return self._hold_back(found, rows) if self.search.fidelities else found

    def stages(self, proposal: Proposal) -> tuple[Stage, ...]:
        """Return the trials of a proposal, in their order."""
        known, stages = self._stages.get(proposal.number, (None, ()))
        if known is not proposal:
            stages = list_stages(self.search, proposal)
            self._stages[proposal.number] = proposal, stages
        return stages

    def rank(self, tried: Sequence[EvaluatedProposal]) -> list[RankedProposal]:
        """Rank the proposals that may be the best, the best first, by their estimated losses on the held-out images.

        Several objectives are ranked by non-dominated sorting, and within a rank by the first objective.
        """
        eligible = [one for one in tried if one.eligible]
        found = self._read_scores({trial: losses for one in eligible for trial, losses in one.parts.items()})
        scores = [join_scores([found[trial] for trial in one.parts]) for one in eligible]
        places = range(len(self.search.objective))
        estimates = list(zip(*(estimate_losses(scores, place) for place in places), strict=True))
        points = [tuple(estimate.loss for estimate in own) for own in estimates]
        ranked = map(RankedProposal, (one.proposal for one in eligible), ranks(points), estimates)
        return sorted(ranked, key=lambda one: (one.rank, one.estimates[0].loss))

    def confirmations(self, tried: Sequence[EvaluatedProposal]) -> list[Proposal]:
        """List the confirmations: the baseline and the best configurations, on all training images, with fresh seeds.

        Of the best k, those that the first one surely beats on the held-out images are left out.
        """
        best, seeds = self.search.confirmation
        if not best:
            return []
        baseline = [one.proposal for one in tried if one.proposal.number == 0]
        first = [one for one in self.rank(tried) if one.proposal.number > 0][:best]
        certainty = self.search.certainty
        behind = [one for one in first if is_surely_better(first[0].estimates, one.estimates, certainty)]
        chosen = [*baseline, *(one.proposal for one in first if one not in behind)]
        fresh = range(self.start.seed + 1, self.start.seed + 1 + seeds)
        return [_confirmation(one, one.config, seed) for seed in fresh for one in chosen if one.config]

    def _read_scores(self, means: Mapping[str, Point]) -> dict[str, Scores]:
        """Return the scores of complete trials. Only those of new ones are read.

        means: The trials' losses, by their names.
        """
        fresh = [name for name, own in means.items() if name not in self._scores or self._scores[name].means != own]
        columns = ["trial", "attempt", "image", "group", "class", "metric", "value"]
        of_objective = ds.field("metric").isin(list(self.search.objective))
        table = self.ledger.read("images", columns, fresh, of_objective) if fresh else None
        rows: dict[str, dict[int, list[Row]]] = {}  # by trial and attempt
        for row in table.to_pylist() if table else ():
            if row["class"] in (None, "all"):
                rows.setdefault(row["trial"], {}).setdefault(row["attempt"], []).append(row)
        for name in fresh:
            last = max(rows.get(name, {0: []}).items())[1]
            self._scores[name] = collect_scores(means[name], last, self.search.objective)
        return {name: self._scores[name] for name in means}

    def _parse(self, row: dict[str, Any]) -> Proposal:
        key = row["number"], row["seed"]
        known, proposal = self._parsed.get(key, (None, None))
        if proposal is None or (known is not row and known != row):  # equal rows are others after a compaction
            proposal = parse_proposal(self.ledger.study, row)
        self._parsed[key] = row, proposal
        return proposal

    def _find_ended(self, proposal: Proposal, rows: Rows) -> EvaluatedProposal | None:
        """Return an earlier evaluation; None if there is none, or if a trial was running or has run again since."""
        known, evaluated = self._ended.get(proposal.number, (None, None))
        if evaluated is None or evaluated.proposal is not proposal or evaluated.status == "running":
            return None
        return evaluated if known == list_ended(self.stages(proposal), rows) else None

    def _evaluate(self, proposal: Proposal, rows: Rows, rungs: tuple[Rung, ...]) -> EvaluatedProposal:
        if proposal.reason:
            return EvaluatedProposal(proposal, "refused")
        stages = self.stages(proposal)
        parts = dict[str, Point]()
        for stage in stages:
            row = rows.get(stage.trial)
            if row is None:
                return EvaluatedProposal(proposal, "running", None, rungs, stages=stages, upcoming=stage)
            point = losses(row, self.search.objective) if row["status"] == "complete" else None
            if row["status"] != "complete" or (point is None and stage.cheap):
                return EvaluatedProposal(proposal, row["status"], None, rungs, stages=stages)
            if point is not None and not stage.cheap:
                parts[stage.trial] = point
        evaluated = EvaluatedProposal(proposal, "complete", None, rungs, stages=stages, parts=parts)
        row = evaluated.limited_row(rows)
        measured = len(parts) == sum(not stage.cheap for stage in stages)
        point = tuple(map(fmean, zip(*parts.values(), strict=True))) if measured else None
        excess = compute_excess(self.search.constraints, row)
        return replace(evaluated, losses=point, excess=excess, data=row.get("data_digest"))

    def _hold_back(self, tried: list[EvaluatedProposal], rows: Rows) -> list[EvaluatedProposal]:
        """Return the proposals; those that are surely behind the others at a fidelity count as pruned, and have no next trial."""
        for place in range(len(self.search.fidelities)):
            reached = {
                one.stages[place].trial: losses(rows[one.stages[place].trial], self.search.objective)
                for one in tried
                if one.stages and rows.get(one.stages[place].trial, {}).get("status") == "complete"
            }
            scores = self._read_scores({trial: point for trial, point in reached.items() if point is not None})
            tried = [self._hold_back_at(one, place, dict.fromkeys(reached) | scores) for one in tried]
        return tried

    def _hold_back_at(
        self, one: EvaluatedProposal, place: int, reached: Mapping[str, Scores | None]
    ) -> EvaluatedProposal:
        """Return a proposal as it is after it has been compared at the fidelity of a place."""
        if one.upcoming is None or one.stages.index(one.upcoming) != place + 1:
            return one
        trial, rungs = one.stages[place].trial, self.search.rungs(self.name, one.proposal.number)
        found = find_evidence(rungs, trial, reached) if rungs.reduction else None
        if found is None:
            return one
        loss, before = reached[trial], place - len(self.search.fidelities)  # below all steps of a proposal's own trial
        at = ((before, loss.means[0]),) if loss and len(self.search.objective) == 1 else ()
        reason = f"surely behind {found[0]} at fidelity {place + 1}"
        return replace(one, status="pruned", rungs=at, upcoming=None, reason=reason)

    def _read_rungs(self) -> dict[str, list[Rung]]:
        """Read the steps and losses at which trials were compared, by the trial's name."""
        found: dict[str, list[Rung]] = {}
        for row in self.ledger.records("rungs", self.name):
            if row["image"] is not None:
                continue
            if loss := losses({row["metric"]: row["value"]}, self.search.objective):
                found.setdefault(row["trial"], []).append((row["step"], *loss))
        return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) and known else None


def _confirmation(proposal: Proposal, config: Config, seed: int) -> Proposal:
    config = config.model_copy(update={"seed": seed}).on_test_images()
    return Proposal(
        proposal.search, proposal.number, seed, trial_name(config), proposal.source, proposal.settings, config
    )
