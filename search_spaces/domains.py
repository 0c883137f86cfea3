"""What one setting is drawn from: a range of numbers, or choices. A fixed value is a single choice."""

import math
from dataclasses import dataclass
from typing import Any

from diffseg.config.sentences import shown
from search_spaces.errors import SpaceError
from search_spaces.settings import kinds
from search_spaces.trial import Trial


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included."""

    low: float
    high: float
    log: bool = False  # uniform in the logarithm
    step: float | None = None
    whole: bool = False  # whole numbers only

    def suggest(self, trial: Trial, path: str) -> Any:
        """Ask the trial for a value."""
        if self.whole:
            return trial.suggest_int(path, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(path, self.low, self.high, step=self.step, log=self.log)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def samples(self) -> dict[str, Any]:
        """The ends, by their names."""
        return {"low": self.low, "high": self.high}

    def describe(self) -> str:
        """Return the range in words."""
        return (
            f"{self.low:g} to {self.high:g}{', log' if self.log else ''}{f', step {self.step:g}' if self.step else ''}"
        )

    def written(self) -> dict[str, Any]:
        """Return the range as a study file has it."""
        found: dict[str, Any] = {"low": self.low, "high": self.high}
        return found | ({"log": True} if self.log else {}) | ({"step": self.step} if self.step else {})


@dataclass(frozen=True)
class Choices:
    """A list of values."""

    values: tuple[Any, ...]

    def suggest(self, trial: Trial, path: str) -> Any:
        """Ask the trial for a value."""
        return trial.suggest_categorical(path, self.values)

    def __contains__(self, value: object) -> bool:
        return value in self.values

    @property
    def samples(self) -> dict[str, Any]:
        """All values, by their words in a message."""
        return {"the choice" if len(self.values) > 1 else "the value": value for value in self.values[:1]} | {
            f"choice {place}": value for place, value in enumerate(self.values[1:], 2)
        }

    def describe(self) -> str:
        """Return the choices in words."""
        return ", ".join(map(shown, self.values))

    def written(self) -> dict[str, Any]:
        """Return the choices as a study file has them."""
        return {"choices": list(self.values)}


Domain = Range | Choices


def parse_domain(table: dict[str, Any], path: str, key: str) -> Domain:
    """Return the range or the choices of a setting. Raises SpaceError about the study file's `key`."""
    if "choices" in table:
        return _parse_choices(table["choices"], key)
    return _parse_range(table, path, key)


def _parse_choices(values: Any, key: str) -> Choices:
    if not isinstance(values, list) or not values:
        raise SpaceError(key, f"choices is {shown(values)}; allowed is a list of one or more values")
    texts = [shown(value) for value in values]
    if repeated := [text for text in texts if texts.count(text) > 1]:
        raise SpaceError(key, f"choices has {repeated[0]} more than once; give each value once")
    return Choices(tuple(values))


def _parse_range(table: dict[str, Any], path: str, key: str) -> Range:
    if not {"integer", "number"} & kinds(path):
        raise SpaceError(key, f"{path} is {' or '.join(sorted(kinds(path)))}, which has no range; give choices = [...]")
    for name in ("low", "high"):
        if name not in table:
            raise SpaceError(key, f"{name} is missing; a range has low and high")
    whole = "number" not in kinds(path)
    low, high = (_number(table[name], name, whole, path, key) for name in ("low", "high"))
    step = _number(table["step"], "step", whole, path, key) if "step" in table else None
    log = table.get("log", False)
    if not isinstance(log, bool):
        raise SpaceError(key, f"log is {shown(log)}; allowed are true and false")
    if low >= high:
        raise SpaceError(key, f"low is {low:g} and high is {high:g}, but low must be below high")
    if log and low <= 0:
        raise SpaceError(key, f"low is {low:g}, but a range with log = true must be above 0")
    if log and step is not None:
        raise SpaceError(key, "log and step exclude each other; leave one of them out")
    if step is not None and (step <= 0 or abs((count := (high - low) / step) - round(count)) > 1e-6):
        raise SpaceError(key, f"step is {step:g}, but {low:g} to {high:g} must be a whole number of steps above 0")
    return Range(low, high, log, step, whole)


def _number(value: Any, name: str, whole: bool, path: str, key: str) -> float:
    """Return a number of a range; a whole one for a setting of whole numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SpaceError(key, f"{name} is {shown(value)}; allowed is a finite number")
    if whole and value != int(value):
        raise SpaceError(key, f"{name} is {value:g}, but {path} is a whole number")
    return int(value) if whole else float(value)
