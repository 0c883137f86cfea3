"""What a search has tried and what came of it, read from the ledger. What has ended is read and evaluated once."""

from dataclasses import dataclass, field
from typing import Any

from diffseg.config import Config
from diffseg.evaluation.pareto import losses
from studies.search.constraints import compute_excess
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
            if loss := losses({row["metric"]: row["value"]}, self.search.objective):
                found.setdefault(row["trial"], []).append((row["step"], *loss))
        return found
