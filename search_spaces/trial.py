"""The trial that a space is asked with: the three methods of an Optuna trial that spaces use, and classes that have them."""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from diffseg.config.sentences import shown

GRID = 4  # values of a range in a grid


class Trial(Protocol):
    """The part of an Optuna trial that a space uses. Each method takes a setting's dotted path and returns the chosen value."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Choose one of the values."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Choose a number of the range, uniform in its logarithm if log is true."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Choose a whole number of the range, uniform in its logarithm if log is true."""


class SettingsTrial:
    """Asks an Optuna trial for a space's settings and keeps them in `settings`.

    Optuna knows single values only, so a choice that is a list is its JSON to Optuna.
    """

    def __init__(self, trial: Any, grid: bool = False):
        """Ask `trial`. With `grid`, ranges become choices among GRID values."""
        self.trial, self.grid = trial, grid
        self.settings: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Choose one of the values."""
        known = {encode(value): value for value in choices}
        chosen = known[self.trial.suggest_categorical(name, list(known))]
        self.settings[name] = chosen
        return chosen

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Choose a number of the range."""
        chosen: float
        if self.grid:
            chosen = self.trial.suggest_categorical(name, grid_values(low, high, step, log))
        else:
            chosen = self.trial.suggest_float(name, low, high, step=step, log=log)
        self.settings[name] = chosen
        return chosen

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Choose a whole number of the range."""
        chosen: int
        if self.grid:
            values = dict.fromkeys(round(value) for value in grid_values(low, high, step, log))
            chosen = self.trial.suggest_categorical(name, list(values))
        else:
            chosen = self.trial.suggest_int(name, low, high, step=step, log=log)
        self.settings[name] = chosen
        return chosen


def encode(value: Any) -> Any:
    """Return a choice as Optuna knows it. Raises TypeError for a value that no setting has."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def grid_values(low: float, high: float, step: float | None, log: bool) -> list[float]:
    """Return up to GRID values of a range, equally far apart, or by equal factors if log; multiples of the step."""
    import numpy as np  # which `status` does not need

    if step is not None and not log:
        count = round((high - low) / step) + 1
        places = np.unique(np.linspace(0, count - 1, min(GRID, count)).round())
        return [low + step * float(place) for place in places]
    found: list[float] = (np.geomspace if log else np.linspace)(low, high, GRID).tolist()
    return found


class RandomTrial:
    """A trial that chooses at random, without Optuna. Raises ValueError for what Optuna would refuse."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Choose one of the values."""
        if not choices:
            raise ValueError(f"{name} has no choices")
        return self.random.choice(list(choices))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Choose a number of the range."""
        _check_range(name, low, high, step, log)
        if step is not None:
            return min(high, low + step * self.random.randint(0, int((high - low) / step + 1e-9)))
        if not log:
            return self.random.uniform(low, high)
        return min(high, max(low, math.exp(self.random.uniform(math.log(low), math.log(high)))))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Choose a whole number of the range."""
        _check_range(name, low, high, None if step == 1 else step, log)
        if log:
            return round(math.exp(self.random.uniform(math.log(low), math.log(high))))
        return self.random.randrange(low, high + 1, step)


class GivenTrial:
    """A trial that answers with given settings, and keeps in `outside` what it was asked for where these are something else."""

    def __init__(self, given: Mapping[str, Any]):
        self.given = given
        self.outside: dict[str, str] = {}  # by setting: what is allowed, in words

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the given value, or the first choice if it is none of them."""
        within = [choice for choice in choices if name in self.given and encode(choice) == encode(self.given[name])]
        return self._answer(name, bool(within), choices[0], ", ".join(map(shown, choices)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return the given value, or the least one if it is outside of the range."""
        value = self.given.get(name)
        within = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if within and step:
            steps = (float(self.given[name]) - low) / step
            within = abs(steps - round(steps)) < 1e-8
        words = f"{low:g} to {high:g}{f', step {step:g}' if step else ''}"
        found: float = self._answer(name, within, low, words)
        return found

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return the given value, or the least one if it is outside of the range."""
        return int(self.suggest_float(name, low, high, step=step))

    def _answer(self, name: str, within: bool, other: Any, words: str) -> Any:
        if not within:
            self.outside[name] = words
        return self.given[name] if within else other


def _check_range(name: str, low: float, high: float, step: float | None, log: bool) -> None:
    if low > high or (log and low <= 0) or (log and step is not None) or (step is not None and step <= 0):
        raise ValueError(f"{name} has the range {low} to {high} with log {log} and step {step}, which Optuna refuses")


def draw_settings(suggest: Callable[[Trial], object], seed: int) -> dict[str, Any]:
    """Return settings that a space draws at random."""
    trial = SettingsTrial(RandomTrial(seed))
    suggest(trial)
    return trial.settings
