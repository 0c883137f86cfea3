"""Proposals of searches: what they try, as rows of the ledger's table `proposals`, and what came of it."""

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from diffseg import config as configuration
from diffseg.config import Config
from diffseg.errors import ConfigError
from search_spaces import INITIAL_POINTS
from studies.store.ledger import Ledger

START = "start"  # source of the proposal that is the configuration which a search over a user's space starts from
FROM = "from "  # beginning of the source of configurations that were the best in another study
POINT = "point "  # beginning of the source of a user's own points
TOO_LARGE = "refused: parameters "  # beginning of the reason of proposals that a constraint on parameters refuses


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
        return self.source if self.source in (*INITIAL_POINTS, START) else describe_settings(self.settings)

    @property
    def tried_first(self) -> bool:
        """Whether it is a point tried first, which no sampler has drawn."""
        return self.source in (*INITIAL_POINTS, START) or self.source.startswith((POINT, FROM))

    @property
    def too_large(self) -> bool:
        """Whether it was refused since its network has more parameters than a constraint allows."""
        return (self.reason or "").startswith(TOO_LARGE)

    def record(self, ledger: Ledger) -> None:
        """Write the proposal into the ledger."""
        config = self.config and self.config.canonical()
        row = {**vars(self), "settings": json.dumps(self.settings, sort_keys=True), "config": config}
        ledger.record("proposals", [row])


def describe_settings(settings: dict[str, Any]) -> str:
    """Write settings, given by their paths, as "schedule cosine, training batch 16"."""
    values = {re.sub("[._]", " ", path.removeprefix("diffusion.")): value for path, value in settings.items()}
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


@cache
def _load_config(text: str) -> Config:
    """Load a proposal's configuration once, since a search asks for all of its proposals again and again."""
    return configuration.load(text)


def parse_proposal(study: str, row: dict[str, Any]) -> Proposal:
    """Return the proposal of a row of a study's ledger. Raises ConfigError if this version cannot read it."""
    try:
        config = _load_config(row["config"]) if row["config"] else None
    except ConfigError as error:
        raise ConfigError(
            f"proposal {row['number']} of {row['search']} in study {study} is of a version of diffseg that this one cannot "
            f"read ({error}): run the study with that version, or give a new one a name with --name NAME"
        ) from None
    return Proposal(**row | {"settings": json.loads(row["settings"]), "config": config})


def read_proposals(ledger: Ledger, search: str | None = None) -> list[Proposal]:
    """Read the proposals that one search, or all searches, have made so far, in their order."""
    return [parse_proposal(ledger.study, row) for row in ledger.records("proposals", search)]
