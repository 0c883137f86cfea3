"""A search: the settings of a study file's table [search].

Every trial that the rest of the file describes starts a search of its own, for the settings of `diffusion` that suit its
data set. Searched trials train without the held-out images (data.held_out) and are compared on them. The best are then
confirmed: trained again on all training images with fresh seeds, and tested on the test images.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from diffseg.config import Config, PositiveInt, Section, Training
from diffseg.config.leaves import flat
from diffseg.config.sentences import shown
from diffseg.errors import ConfigError
from diffseg.evaluation.registry import METRICS
from diffseg.section import Positive
from diffseg.suggestions import did_you_mean
from search_spaces import SHIPPED, Space, SpaceError, draw_settings, parse_space
from search_spaces.settings import AT_RUNGS, CONSTANT, SPACE, check_setting
from search_spaces.space import describe_change
from search_spaces.trial import GivenTrial
from studies.search.constraints import find_violation, parse_constraints
from studies.search.stages import check_stages

DRAWS = 100  # random proposals: a space all of which are the start is refused

if TYPE_CHECKING:  # mypy knows no Literal of a table's keys
    MetricName: TypeAlias = str
else:
    MetricName = Literal[tuple(METRICS)]


def _parse_settings(key: str, value: Any, constant: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
    """Return each table of a list as settings by their paths. Raises SpaceError, also for settings that are constant."""
    if not isinstance(value, list | tuple) or not all(isinstance(table, dict) and table for table in value):
        raise SpaceError(key, f"got {shown(value)}; write [[{key}]] and settings below it")
    tables = tuple(flat(table) for table in value)
    for place, table in enumerate(tables, 1):
        for path in table:
            check_setting(path, f"{key}.{place}", constant)
    return tables


def _parse_points(value: Any) -> tuple[dict[str, Any], ...]:
    return _parse_settings("search.points", value, CONSTANT | AT_RUNGS)


def _parse_fidelities(value: Any) -> tuple[dict[str, Any], ...]:
    return _parse_settings("search.fidelities", value, CONSTANT)


# fmt: off
class Stop(Section):
    """When a search ends before its budget is used up (studies/search/stopping.py). None: never for this reason."""

    hours: Positive | None = Field(None, description="Hours during which at least one of its trials ran.")
    gpu_hours: Positive | None = Field(None, description="GPU hours of its trials.")
    without_improvement: PositiveInt | None = Field(None,
        description="Drawn proposals, complete or pruned, since the best one.")
    failures: PositiveInt | None = Field(None,
        description="Trials that fail one after another for the same reason. None: the first five end without a value.")


class Search(Section):
    """The settings of a search."""

    space: Annotated[Space, PlainValidator(parse_space), PlainSerializer(lambda space: space.written())] = Field(
        description="What varies: a name of search_spaces/*.toml, a table of settings, or FILE.py:FUNCTION.")
    points: Annotated[tuple[dict[str, Any], ...], PlainValidator(_parse_points), PlainSerializer(list)] = Field((),
        description="Settings of configurations to try first.")
    constraints: Annotated[dict[str, float], PlainValidator(parse_constraints)] = Field({},
        description="What a trial may take at most, by columns of the ledger's trials.")
    warm_start: tuple[str, ...] = Field((),
        description="Other studies, as STUDY or STORE/STUDY, whose best is tried first (studies/search/warm_start.py).")
    budget: PositiveInt = Field(32, description="Number of proposals in all, initial points included.")
    fidelities: Annotated[tuple[dict[str, Any], ...], PlainValidator(_parse_fidelities), PlainSerializer(list)] = Field((),
        description="Settings of cheaper trials, with which a proposal is tried before it is trained itself.")
    folds: PositiveInt = Field(1,
        description="Parts of the training images, each as large as data.held_out, on which a proposal is measured in turn.")
    objective: tuple[MetricName, ...] = Field(("iou",), min_length=1,
        description="Metrics to improve; of several, the Pareto front.")
    sampler: Literal["tpe", "gp", "random", "grid"] = Field("tpe",
        description="Multivariate TPE or a Gaussian process; random and grid are controls.")
    pruning: int = Field(3, ge=0,
        description="A trial ends at a rung where a share 1/n of the trials is ahead of it with certainty. 0: all continue.")
    certainty: float = Field(0.9, gt=0.5, lt=1,
        description="Probability from which one trial counts as ahead of another one: to prune it, or not to confirm it.")
    confirm: str = Field("0x0", pattern=r"^\d+[x×]\d+$",
        description="k×n: the best configurations, at most k, are trained again with n fresh seeds.")
    stop: Stop = Field(Stop(), description="When to end before the budget is used up.")
    concurrency: PositiveInt | None = Field(None, description="Most trials side by side. None: as many as fit.")
# fmt: on

    @model_validator(mode="after")
    def _check_distinct(self) -> Self:
        for key, names in (("objective", self.objective), ("warm_start", self.warm_start)):
            if len(set(names)) != len(names):
                raise SpaceError(f"search.{key}", f"got {', '.join(names)}, but each must be named once")
        return self

    @model_validator(mode="after")
    def _check_fidelities(self) -> Self:
        if self.fidelities and not self.pruning:
            raise SpaceError(
                "search.fidelities", "fidelities are given, but pruning is 0, so that all proposals would go on from them: set it"
            )
        return self

    @property
    def stages(self) -> int:
        """The largest number of trials of a proposal."""
        return len(self.fidelities) + self.folds

    @property
    def confirmation(self) -> tuple[int, int]:
        """The number of configurations to train again, and the number of seeds for each."""
        best, seeds = self.confirm.replace("×", "x").split("x")
        return int(best), int(seeds)

    @property
    def may_use_fingerprint(self) -> bool:
        """Whether proposals may be weighted by a fingerprint, which E3 trials measure."""
        return any(self.space.can_draw(f"diffusion.{name}", "fingerprint") for name in ("weighting", "density"))

    def find_setter(self, path: str) -> str | None:
        """Return the key of the space or the fidelity that sets a setting whatever the start has; None if none does."""
        if path in self.space.paths:
            return SPACE
        places = (place for place, settings in enumerate(self.fidelities, 1) if path in settings)
        return next((f"search.fidelities.{place}" for place in places), None)

    @property
    def confirmations(self) -> int:
        """The largest number of trials that confirm the best proposals and the start."""
        best, seeds = self.confirmation
        return (best + 1) * seeds if best else 0

    def rungs(self, start: str, number: int, training: Training | None = None) -> "Rungs":
        """Return how a proposal of the search that starts from a trial is pruned. The start, number 0, never is.

        training: Of the proposal's own trial; None where it is compared at fidelities.
        """
        steps = tuple(round(share * training.steps) for share in sorted(training.evaluations)) if training else ()
        return Rungs(start, self.objective, self.pruning if number else 0, self.certainty, steps)

    def differences(self, other: "Search") -> list[str]:
        """Describe the settings that make `other` a different search.

        The budget, the confirmation, the stopping rules and the concurrency of a search may change.
        """
        fixed = ("points", "constraints", "warm_start", "fidelities", "folds", "objective", "sampler", "pruning", "certainty")
        pairs = [(key, getattr(self, key), getattr(other, key)) for key in fixed]
        changes = [f"search.{key}: {_text(old)} → {_text(new)}" for key, old, new in pairs if old != new]
        return describe_change(self.space, other.space) + changes


def parse(table: dict[str, Any]) -> Search:
    """Parse the table of a study file, or options of the command line. Raises ConfigError in one sentence."""
    try:
        return Search.model_validate_json(json.dumps(table))
    except ValidationError as error:
        faults = [fault for fault in error.errors() if fault["type"] != "too_short" or not fault["input"]]  # each only once
        raise ConfigError("; ".join(map(_sentence, faults))) from None
    except (TypeError, ValueError, RecursionError):  # of json.dumps
        raise ConfigError("search holds a value that is too long or nested too deeply") from None


def check_start(start: Config, search: Search) -> None:
    """Raise ConfigError if a search cannot start from a trial of E2, or cannot vary what its space does."""
    search.space.check(start)
    for place, point in enumerate(search.points, 1):
        _check_point(start, search, f"search.points.{place}", point)
    _check_variation(start, search)
    if not start.data.held_out:
        raise ConfigError(
            "data.held_out is 0, so that the winner would be chosen by the test images: set it, such as data.held_out=0.2"
        )
    check_stages(search, start)
    if reason := find_violation(search.constraints, start.with_leaves(search.space.fixed).resolved()):
        raise SpaceError(
            "search.constraints.parameters",
            f"the search's start exceeds it ({reason}); give a smaller network in [search.start], or a larger limit",
        )
    if search.pruning and not search.fidelities and not start.training.evaluations:
        raise ConfigError(
            "search.pruning compares trials at training.evaluations, of which there are none: set them, "
            "such as training.evaluations=[0.11,0.33], or give search.fidelities, or set search.pruning=0"
        )


def _check_point(start: Config, search: Search, key: str, point: Mapping[str, Any]) -> None:
    """Raise SpaceError about a key of the study file if a point of its own cannot be tried."""
    fixed = search.space.fixed
    try:
        start.with_leaves({**fixed, **point}).resolved()
    except ConfigError as error:
        raise SpaceError(key, str(error)) from None
    for path in point.keys() & fixed.keys():
        if point[path] != fixed[path]:
            own, other = shown(point[path]), shown(fixed[path])
            raise SpaceError(key, f"{path} is {own}, but search.space fixes it at {other}: leave it out of one of them")


def describe_outside(start: Config, search: Search) -> Iterator[str]:
    """Yield a sentence for each setting by which the start of a search, or a point of its own, lies outside of its space.

    What lies outside is tried, but unknown to the sampler. A shipped space does not try the start itself.
    """
    tried = {f"search.points.{place}": point for place, point in enumerate(search.points, 1)}
    if search.space.name not in SHIPPED:
        tried = {"search.start": {}, **tried}
    for key, settings in tried.items():
        settings = search.space.fixed | settings
        asked = GivenTrial(start.with_leaves(settings).resolved().leaves() | settings)
        search.space.suggest(asked, start.leaves())
        for path, allowed in asked.outside.items():
            value = shown(asked.given.get(path))
            yield (
                f"{key}: {path} is {value}, which search.space does not have ({allowed}): this is tried first, but the sampler "
                "cannot learn from it"
            )


def _check_variation(start: Config, search: Search) -> None:
    """Raise SpaceError if all that a space draws is the start itself, and the search is to try more than points."""
    if search.budget <= 1 + len(search.points) or any(_varies(start, search, seed) for seed in range(DRAWS)):
        return
    raise SpaceError(
        SPACE,
        f"all {DRAWS} proposals that were drawn are the start itself: nothing varies, or nothing that has an effect here; "
        "give settings that E2 uses with the others of the start, or other conditions",
    )


def _varies(start: Config, search: Search, seed: int) -> bool:
    """Return whether a random proposal is another one than the start, or is refused."""
    leaves = start.leaves()
    settings = draw_settings(lambda trial: search.space.suggest(trial, leaves), seed)
    try:
        return start.with_leaves(settings).resolved() != start.with_leaves(search.space.fixed).resolved()
    except ConfigError:
        return True


@dataclass(frozen=True)
class Rungs:
    """How a trial is compared with the others of its search while it runs (`studies/engine/pruning.py`)."""

    search: str  # name of the trial that the search starts from
    objective: tuple[str, ...]
    reduction: int  # a trial ends if 1/reduction of the trials is ahead of it; 0: it continues in any case
    certainty: float = 0.9  # probability from which another trial is ahead
    steps: tuple[int, ...] = ()  # of the trial, at its rungs: trials of other lengths are compared at the same share


def _sentence(fault: Any) -> str:
    """Say in one sentence what pydantic found."""
    key, got = ".".join(map(str, ("search", *fault["loc"]))), json.dumps(fault["input"], default=str)[:80]
    if fault["type"] == "extra_forbidden":
        parent, _, name = key.rpartition(".")
        allowed = list((Stop if parent == "search.stop" else Search).model_fields)
        return f"unknown key '{key}'{did_you_mean(name, allowed)}: allowed are {', '.join(f'{parent}.{one}' for one in allowed)}"
    if key == "search.stop":
        return f"{key}: got {got}; allowed is a table such as {{ hours = 8 }}"
    if fault["type"] == "missing":
        return f"{key} is missing: give one of {', '.join(SHIPPED)}, a table [{key}], or FILE.py:FUNCTION"
    if fault["type"] == "string_pattern_mismatch":
        return f"{key}: got {got}; allowed are two numbers, configurations and seeds, such as 3x5"
    if fault["loc"][0] == "objective" and fault["type"] == "literal_error":
        return f"{key}: got {got}{did_you_mean(str(fault['input']), METRICS)}; allowed are {', '.join(METRICS)}"
    return f"{key}: got {got}; {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _text(value: Any) -> str:
    if isinstance(value, tuple) and all(isinstance(one, str) for one in value):
        return ", ".join(value) or "none"
    return shown(value) if isinstance(value, tuple | dict) else str(value)
