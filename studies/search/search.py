"""A search: the settings of a study file's table [search], and what it has tried so far, by the ledger.

Every trial that the rest of the file describes is the start of a search of its own, for the settings of `diffusion` that
suit its data set. Searched trials train without the held-out images (data.held_out) and are compared on them; the best are
then confirmed: trained again on all training images with fresh seeds, and tested on the test images.
"""

import json
import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from diffseg import config as configuration
from diffseg.config import Config, PositiveInt, Section
from diffseg.errors import ConfigError
from search_spaces import SPACES, TRIED_FIRST
from studies.store.ledger import Ledger
from studies.store.tables import METRICS


# fmt: off
class Search(Section):
    space: Literal[tuple(SPACES)]                         # what varies: search_spaces/spaces.py
    budget: PositiveInt = 32                              # proposals in all, those tried first included
    objective: Annotated[tuple[Literal[tuple(METRICS)], ...], Field(min_length=1)] = ("iou",)  # of several, the Pareto front
    sampler: Literal["tpe", "gp", "random", "grid"] = "tpe"  # multivariate TPE, Gaussian process, and controls
    pruning: Annotated[int, Field(ge=0)] = 3              # at every rung, one in so many goes on; 0: all do
    confirm: Annotated[str, Field(pattern=r"^\d+[x×]\d+$")] = "0x0"  # k×n: the best k are trained again with n fresh seeds
    concurrency: PositiveInt | None = None                # trials side by side, at most; None: as many as find place
# fmt: on

    @model_validator(mode="after")
    def _distinct(self):
        if len(set(self.objective)) != len(self.objective):
            raise ValueError(f"objective is {', '.join(self.objective)}, but each must be named once")
        return self

    @property
    def confirmed(self) -> tuple[int, int]:
        """How many configurations are trained again, and with how many seeds each."""
        best, seeds = self.confirm.replace("×", "x").split("x")
        return int(best), int(seeds)

    def differences(self, other: "Search") -> list[str]:
        """What makes another search of it, which the budget, the confirmation and the concurrency do not."""
        fixed = ("space", "objective", "sampler", "pruning")
        pairs = [(key, getattr(self, key), getattr(other, key)) for key in fixed]
        return [f"search.{key}: {_text(old)} → {_text(new)}" for key, old, new in pairs if old != new]


def parse(table: dict[str, Any]) -> Search:
    """The table of a study file, or options of the command line. Raises ConfigError in one sentence."""
    try:
        return Search.model_validate_json(json.dumps(table))
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(fault) for fault in error.errors())) from None
    except (TypeError, ValueError, RecursionError):  # of json.dumps
        raise ConfigError("search holds a value that is too long or nested too deeply") from None


def check_start(start: Config, search: Search) -> None:
    """Raises ConfigError if a search cannot start from a trial of E2."""
    if not start.data.held_out:
        raise ConfigError(
            "data.held_out is 0, so that the winner would be chosen by the test images: set it, such as data.held_out=0.2"
        )
    if search.pruning and not start.training.evaluations:
        raise ConfigError(
            "search.pruning compares trials at training.evaluations, of which there are none: set them, "
            "such as training.evaluations=[0.11,0.33], or set search.pruning=0"
        )


@dataclass(frozen=True)
class Proposal:
    """Something to try: a row of the ledger's table `proposals`."""

    search: str  # the name of the trial that the search starts from
    number: int
    seed: int
    trial: str | None
    source: str
    settings: dict[str, Any]
    config: Config | None
    reason: str | None = None

    @property
    def name(self) -> str:
        return f"{self.search}-{self.number:04}-{self.seed}"

    @property
    def words(self) -> str:
        """What is tried: the name of a point tried first, or the settings in words."""
        return self.source if self.source in TRIED_FIRST else in_words(self.settings)

    def record(self, ledger: Ledger) -> None:
        config = self.config and self.config.canonical()
        row = {**vars(self), "settings": json.dumps(self.settings, sort_keys=True), "config": config}
        ledger.record("proposals", [row])


def in_words(settings: dict[str, Any]) -> str:
    """Settings by their paths as "schedule cosine, input scale 0.1"."""
    values = {path.removeprefix("diffusion.").replace("_", " "): value for path, value in settings.items()}
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def proposals(ledger: Ledger, search: str | None = None) -> list[Proposal]:
    """What was proposed so far, by all searches or one, in their order."""
    rows = ledger.records("proposals", search)
    return [_proposal(ledger, row) for row in rows]


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
class Rungs:
    """How a trial is compared with the others of its search while it runs (`studies/pruning.py`)."""

    search: str
    objective: tuple[str, ...]
    reduction: int  # 0: it goes on in any case


@dataclass(frozen=True)
class Tried:
    """A proposal and what came of it."""

    proposal: Proposal
    status: str  # complete, pruned, failed, refused or running
    losses: tuple[float, ...] | None = None  # of a complete trial that has measured them all
    rungs: tuple[tuple[int, float], ...] = ()  # steps and losses on the way; of one objective only

    @property
    def bad(self) -> bool:
        """Whether it ended without a value."""
        return self.status in ("failed", "refused") or (self.status == "complete" and self.losses is None)


def history(
    ledger: Ledger, past: list[Proposal], seed: int, objective: tuple[str, ...], rows: dict[str, dict]
) -> list[Tried]:
    """The proposals of a search, without confirmations, and what came of them, by their numbers.

    past: all of its proposals. seed: of the trial that it starts from. rows: of each trial the one in the ledger, by name.
    """
    own = [proposal for proposal in past if proposal.seed == seed]
    rungs: dict[str, list] = {}
    if own and len(objective) == 1:
        for row in ledger.records("rungs", own[0].search):
            if loss := losses({row["metric"]: row["value"]}, objective):
                rungs.setdefault(row["trial"], []).append((row["step"], *loss))
    found = []
    for proposal in own:
        row = rows.get(proposal.trial, {})
        status = "refused" if proposal.reason else row.get("status", "running")
        loss = losses(row, objective) if status == "complete" else None
        found.append(Tried(proposal, status, loss, tuple(sorted(rungs.get(proposal.trial, ())))))
    return found


def losses(metrics: dict[str, float | None], objective: tuple[str, ...]) -> tuple[float, ...] | None:
    """The objectives, turned so that less is better; None if one of them was not measured."""
    values = [metrics.get(name) for name in objective]
    if any(value is None or math.isnan(value) for value in values):
        return None
    return tuple(
        -value if METRICS[name] else value for name, value in zip(objective, values, strict=True)
    )


def fronts(points: list[tuple[float, ...]]) -> list[int]:
    """The rank of each point by non-dominated sorting, 0 for those that no other beats; less is better."""
    ranks: dict[tuple[float, ...], int] = {}
    for point in sorted(set(points)):  # what dominates a point comes before it
        ranks[point] = 1 + max((rank for other, rank in ranks.items() if dominates(other, point)), default=-1)
    return [ranks[point] for point in points]


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether one point is nowhere worse than another, and better somewhere."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _sentence(fault: dict) -> str:
    key, got = ".".join(map(str, ("search", *fault["loc"]))), json.dumps(fault["input"], default=str)[:80]
    if fault["type"] == "extra_forbidden":
        return f"unknown key '{key}': allowed are {', '.join(f'search.{name}' for name in Search.model_fields)}"
    if fault["type"] == "missing":
        return f"{key} is missing: give one of {', '.join(SPACES)}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: got {got}; {message[0].lower()}{message[1:]}"


def _text(value) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
