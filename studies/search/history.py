"""What a search has tried and what came of it, read from the ledger. What has ended is read and evaluated once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.dataset as ds

from diffseg.config import Config
from diffseg.evaluation.pareto import losses, ranks
from diffseg.rows import Row
from studies.search.constraints import compute_excess
from studies.search.evidence import Estimate, Scores, collect_scores, estimate_losses
from studies.search.proposals import Proposal, parse_proposal
from studies.search.search import Search
from studies.store.ledger import Ledger

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
        self._ended: dict[int, tuple[dict[str, Any], EvaluatedProposal]] = {}  # with the trial's row, by number

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
        fresh = [one for one in own if self._find_ended(one, rows.get(one.trial or "", {})) is None]
        rungs = self._read_rungs() if fresh and len(self.search.objective) == 1 else {}
        for one in fresh:
            row = rows.get(one.trial or "", {})
            evaluated = self._evaluate(one, row, tuple(sorted(rungs.get(one.trial or "", ()))))
            self._ended[one.number] = row, evaluated
        return [self._ended[one.number][1] for one in own]

    def rank(self, tried: Sequence[EvaluatedProposal]) -> list[RankedProposal]:
        """Rank the proposals that may be the best, the best first, by their estimated losses on the held-out images.

        Several objectives are ranked by non-dominated sorting, and within a rank by the first objective.
        """
        eligible = [one for one in tried if one.eligible]
        scores = self._read_scores(eligible)
        places = range(len(self.search.objective))
        estimates = list(zip(*(estimate_losses(scores, place) for place in places), strict=True))
        points = [tuple(estimate.loss for estimate in own) for own in estimates]
        found = map(RankedProposal, (one.proposal for one in eligible), ranks(points), estimates)
        return sorted(found, key=lambda one: (one.rank, one.estimates[0].loss))

    def _read_scores(self, tried: Sequence[EvaluatedProposal]) -> list[Scores]:
        """Return the scores of complete trials, of which those that are new are read."""
        means = {one.proposal.trial or "": one.losses or () for one in tried}
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
        return [self._scores[name] for name in means]

    def _parse(self, row: dict[str, Any]) -> Proposal:
        key = row["number"], row["seed"]
        known, proposal = self._parsed.get(key, (None, None))
        if proposal is None or (known is not row and known != row):  # equal rows are others after a compaction
            proposal = parse_proposal(self.ledger.study, row)
        self._parsed[key] = row, proposal
        return proposal

    def _find_ended(self, proposal: Proposal, row: dict[str, Any]) -> EvaluatedProposal | None:
        """Return an earlier evaluation; None if there is none, or if the trial was running or has run again since."""
        known, evaluated = self._ended.get(proposal.number, (None, None))
        if evaluated is None or evaluated.proposal is not proposal or evaluated.status == "running":
            return None
        return evaluated if known is row or known == row else None

    def _evaluate(self, proposal: Proposal, row: dict[str, Any], rungs: tuple[Rung, ...]) -> EvaluatedProposal:
        status = "refused" if proposal.reason else row.get("status", "running")
        if status != "complete":
            return EvaluatedProposal(proposal, status, None, rungs)
        excess = compute_excess(self.search.constraints, row)
        return EvaluatedProposal(
            proposal, status, losses(row, self.search.objective), rungs, excess, row.get("data_digest")
        )

    def _read_rungs(self) -> dict[str, list[Rung]]:
        """Read the steps and losses at which trials were compared, by the trial's name."""
        found: dict[str, list[Rung]] = {}
        for row in self.ledger.records("rungs", self.name):
            if row["image"] is not None:
                continue
            if loss := losses({row["metric"]: row["value"]}, self.search.objective):
                found.setdefault(row["trial"], []).append((row["step"], *loss))
        return found
