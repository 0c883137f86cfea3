"""A search: the settings of a study file's table [search].

Every trial that the rest of the file describes starts a search of its own, for the settings of `diffusion` that suit its
data set. Searched trials train without the held-out images (data.held_out) and are compared on them. The best are then
confirmed: trained again on all training images with fresh seeds, and tested on the test images.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from pydantic import Field, ValidationError, model_validator

from diffseg.config import Config, PositiveInt, Section
from diffseg.errors import ConfigError
from diffseg.evaluation.registry import METRICS
from search_spaces import SPACES

if TYPE_CHECKING:  # mypy knows no Literal of a table's keys
    Space: TypeAlias = str
    MetricName: TypeAlias = str
else:
    Space, MetricName = Literal[tuple(SPACES)], Literal[tuple(METRICS)]


# fmt: off
class Search(Section):
    """The settings of a search."""

    space: Space = Field(description="What varies: one of search_spaces/spaces.py.")
    budget: PositiveInt = Field(32, description="Number of proposals in all, initial points included.")
    objective: tuple[MetricName, ...] = Field(("iou",), min_length=1,
        description="Metrics to improve; of several, the Pareto front.")
    sampler: Literal["tpe", "gp", "random", "grid"] = Field("tpe",
        description="Multivariate TPE or a Gaussian process; random and grid are controls.")
    pruning: int = Field(3, ge=0, description="At every rung, the best 1/n of the trials continue. 0: all continue.")
    confirm: str = Field("0x0", pattern=r"^\d+[x×]\d+$",
        description="k×n: the best k configurations are trained again with n fresh seeds.")
    concurrency: PositiveInt | None = Field(None, description="Most trials side by side. None: as many as fit.")
# fmt: on

    @model_validator(mode="after")
    def _check_distinct(self) -> Self:
        if len(set(self.objective)) != len(self.objective):
            raise ValueError(f"objective is {', '.join(self.objective)}, but each must be named once")
        return self

    @property
    def confirmation(self) -> tuple[int, int]:
        """The number of configurations to train again, and the number of seeds for each."""
        best, seeds = self.confirm.replace("×", "x").split("x")
        return int(best), int(seeds)

    def differences(self, other: "Search") -> list[str]:
        """Describe the settings that make `other` a different search.

        The budget, the confirmation and the concurrency of a search may change.
        """
        fixed = ("space", "objective", "sampler", "pruning")
        pairs = [(key, getattr(self, key), getattr(other, key)) for key in fixed]
        return [f"search.{key}: {_text(old)} → {_text(new)}" for key, old, new in pairs if old != new]


def parse(table: dict[str, Any]) -> Search:
    """Parse the table of a study file, or options of the command line. Raises ConfigError in one sentence."""
    try:
        return Search.model_validate_json(json.dumps(table))
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(fault) for fault in error.errors())) from None
    except (TypeError, ValueError, RecursionError):  # of json.dumps
        raise ConfigError("search holds a value that is too long or nested too deeply") from None


def check_start(start: Config, search: Search) -> None:
    """Raise ConfigError if a search cannot start from a trial of E2."""
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
class Rungs:
    """How a trial is compared with the others of its search while it runs (`studies/engine/pruning.py`)."""

    search: str  # name of the trial that the search starts from
    objective: tuple[str, ...]
    reduction: int  # the best 1/reduction continue; 0: the trial continues in any case


def _sentence(fault: Any) -> str:
    """Say in one sentence what pydantic found."""
    key, got = ".".join(map(str, ("search", *fault["loc"]))), json.dumps(fault["input"], default=str)[:80]
    if fault["type"] == "extra_forbidden":
        return f"unknown key '{key}': allowed are {', '.join(f'search.{name}' for name in Search.model_fields)}"
    if fault["type"] == "missing":
        return f"{key} is missing: give one of {', '.join(SPACES)}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: got {got}; {message[0].lower()}{message[1:]}"


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
