"""Proposals of searches: what they try, as rows of the ledger's table `proposals`, and what came of it."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from diffseg import config as configuration
from diffseg.config import Config
from diffseg.errors import ConfigError
from diffseg.evaluation.pareto import losses
from search_spaces import INITIAL_POINTS
from studies.store.ledger import Ledger


@dataclass(frozen=True)
class Proposal:
    """A configuration to try, or settings that were refused: a row of the ledger's table `proposals`."""

    search: str  # name of the trial that the search starts from
    number: int  # from 0, within the search
    seed: int  # the start trial's; another one in a confirmation
    trial: str | None  # name of the proposed trial; None: refused
    source: str  # name of an initial point or of the sampler
    settings: dict[str, Any]  # that differ from the start trial's, by their paths
    config: Config | None  # None: refused
    reason: str | None = None  # why it was refused

    @property
    def label(self) -> str:
        """The name of an initial point, or the settings in words."""
        return self.source if self.source in INITIAL_POINTS else describe_settings(self.settings)

    def record(self, ledger: Ledger) -> None:
        """Write the proposal into the ledger."""
        config = self.config and self.config.canonical()
        row = {**vars(self), "settings": json.dumps(self.settings, sort_keys=True), "config": config}
        ledger.record("proposals", [row])


def describe_settings(settings: dict[str, Any]) -> str:
    """Write settings, given by their paths, as "schedule cosine, input scale 0.1"."""
    values = {path.removeprefix("diffusion.").replace("_", " "): value for path, value in settings.items()}
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def read_proposals(ledger: Ledger, search: str | None = None) -> list[Proposal]:
    """Read the proposals that one search, or all searches, have made so far, in their order."""
    return [_proposal(ledger, row) for row in ledger.records("proposals", search)]


@cache
def _load_config(text: str) -> Config:
    """Load a proposal's configuration once, since a search asks for all of its proposals again and again."""
    return configuration.load(text)


def _proposal(ledger: Ledger, row: dict[str, Any]) -> Proposal:
    try:
        config = _load_config(row["config"]) if row["config"] else None
    except ConfigError as error:
        raise ConfigError(
            f"proposal {row['number']} of {row['search']} in study {ledger.study} is of a version of diffseg that this one cannot "
            f"read ({error}): run the study with that version, or give a new one a name with --name NAME"
        ) from None
    return Proposal(**row | {"settings": json.loads(row["settings"]), "config": config})


@dataclass(frozen=True)
class EvaluatedProposal:
    """A proposal and what came of it."""

    proposal: Proposal
    status: str  # complete, pruned, failed, refused or running
    losses: tuple[float, ...] | None = None  # of a complete trial that has measured all objectives
    rungs: tuple[tuple[int, float], ...] = ()  # steps and losses at rungs; of a single objective only

    @property
    def infeasible(self) -> bool:
        """Whether it ended without a value: it failed, was refused, or did not measure all objectives."""
        return self.status in ("failed", "refused") or (self.status == "complete" and self.losses is None)


def read_history(
    ledger: Ledger, past: list[Proposal], seed: int, objective: tuple[str, ...], rows: dict[str, dict[str, Any]]
) -> list[EvaluatedProposal]:
    """Evaluate the proposals of a search, without confirmations, in their order.

    Args:
        past: All proposals of the search.
        seed: Of the trial that the search starts from; proposals with other seeds are confirmations.
        rows: The row of each trial in the ledger, by the trial's name. A trial without one is running.
    """
    own = [proposal for proposal in past if proposal.seed == seed]
    rungs: dict[str, list[tuple[int, float]]] = {}
    if own and len(objective) == 1:
        for row in ledger.records("rungs", own[0].search):
            if loss := losses({row["metric"]: row["value"]}, objective):
                rungs.setdefault(row["trial"], []).append((row["step"], *loss))
    found = []
    for proposal in own:
        row = rows.get(proposal.trial or "", {})
        status = "refused" if proposal.reason else row.get("status", "running")
        loss = losses(row, objective) if status == "complete" else None
        found.append(EvaluatedProposal(proposal, status, loss, tuple(sorted(rungs.get(proposal.trial or "", ())))))
    return found
