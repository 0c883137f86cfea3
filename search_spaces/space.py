"""Search spaces: the settings that vary between the proposals of a search.

A space is one of the tables beside this file, named by its file; a table of a study file; or a Python function. What it draws
is set over the configuration that the search starts from; other settings stay as they are there.

    [search.space]
    training.learning_rate = { low = 1e-5, high = 1e-2, log = true }
    network.width = { low = 16, high = 64, step = 16 }                    # whole numbers, since the width is one
    diffusion.schedule = { choices = ["linear", "cosine", "sigmoid"] }
    diffusion.temperature = { low = 0.3, high = 1.5, when = { diffusion.schedule = "sigmoid" } }
    training.batch = 16                                                   # the same in all proposals

`conditions.py` has the forms of `when`. Two rules keep a space free of settings without an effect, on which a sampler would
waste trials:

* A setting that only some choices use is varied only when these are chosen (`USERS` in diffseg/config/diffusion.py).
* Of settings that do the same, only one varies. `input_scale` shifts every schedule along the log-SNR, so the shipped spaces
  do not vary `shift` and `location`, nor the schedule `shifted-cosine`. `linear-continuous` is `linear` in continuous time.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from diffseg.config import Config
from diffseg.config.sentences import shown
from diffseg.suggestions import did_you_mean
from search_spaces.errors import SpaceError
from search_spaces.function import REFERENCE, FunctionSpace, read_function
from search_spaces.settings import SPACE
from search_spaces.table import TableSpace, parse_table
from search_spaces.trial import Trial

SHIPPED = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}


class Space(Protocol):
    """What a search draws from: a TableSpace or a FunctionSpace."""

    @property
    def name(self) -> str:
        """The name of a shipped space, FILE.py:FUNCTION, or an empty text."""

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that have one value in all proposals."""

    @property
    def paths(self) -> set[str]:
        """The settings that it sets in some proposals, fixed ones included."""

    def suggest(self, trial: Trial, start: Mapping[str, Any]) -> None:
        """Ask a trial for the settings of a proposal; `start` has those that the search starts from."""

    def can_draw(self, path: str, value: Any) -> bool:
        """Return whether proposals may have a value of a setting."""

    def check(self, start: Config) -> None:
        """Raise SpaceError unless a search can start from a configuration."""

    def written(self) -> Any:
        """Return the space as JSON, which `parse_space` reads."""

    def describe(self) -> dict[str, str]:
        """Return the parts of the space in words."""


@cache
def load_shipped(name: str) -> TableSpace:
    """Return a shipped space."""
    return parse_table(tomllib.loads(SHIPPED[name].read_text(encoding="utf-8")), name)


def parse_space(value: Any) -> Space:
    """Return the space that a study file or a stored definition has. Raises SpaceError in one sentence."""
    if isinstance(value, dict):
        if value.keys() == {"file", "function", "digest"}:
            return FunctionSpace(**value)
        return parse_table(value)
    if isinstance(value, str) and value in SHIPPED:
        return load_shipped(value)
    if isinstance(value, str) and REFERENCE.fullmatch(value):
        return read_function(value)
    hint = did_you_mean(value, SHIPPED) if isinstance(value, str) else ""
    names = ", ".join(f"'{name}'" for name in SHIPPED)
    raise SpaceError(SPACE, f"got {shown(value)}{hint}; allowed are {names}, a table of settings, and FILE.py:FUNCTION")


def describe_change(old: Space, new: Space) -> list[str]:
    """Describe what makes `new` another space than `old`, a line each."""
    if isinstance(old, FunctionSpace) and isinstance(new, FunctionSpace) and old.name == new.name:
        return [] if old.digest == new.digest else [f"{SPACE}: the file of {new.name} has changed"]
    if old.name or new.name:
        own = "a table"
        return [] if old.name == new.name else [f"{SPACE}: {old.name or own} → {new.name or own}"]
    before, after = old.describe(), new.describe()
    return [
        f"{SPACE}.{path}: {before.get(path, 'none')} → {after.get(path, 'none')}"
        for path in dict.fromkeys((*before, *after))
        if before.get(path) != after.get(path)
    ]
