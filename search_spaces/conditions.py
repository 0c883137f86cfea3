"""Conditions of a space's entries: the values that other settings must have.

when = { diffusion.schedule = ["sigmoid"] }                            one of these values
when = { diffusion.target = "x0", diffusion.activation = "sigmoid" }   all of these hold
when = { diffusion.weighting = { not = ["learned", "target"] } }       none of these values
when = [{ diffusion.weighting = "fingerprint" }, { diffusion.density = "fingerprint" }]     any of these holds
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffseg.config.sentences import shown
from search_spaces.errors import SpaceError
from search_spaces.settings import check_setting, known_settings

FORM = (
    'allowed is a table such as { diffusion.schedule = ["sigmoid"] }, or a list of such tables, any of which may hold'
)


@dataclass(frozen=True)
class Requirement:
    """The values that one setting must have, or must not have."""

    path: str
    values: tuple[Any, ...]
    negated: bool = False

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Return whether it holds. It does not if the space varies the setting, but not in this proposal."""
        return self.path in settings and (settings[self.path] in self.values) != self.negated

    def written(self) -> Any:
        """Return the test as a study file has it."""
        return {"not": list(self.values)} if self.negated else list(self.values)


@dataclass(frozen=True)
class Condition:
    """One of the alternatives must hold, with all of its tests. Without alternatives the condition always holds."""

    alternatives: tuple[tuple[Requirement, ...], ...] = ()

    @property
    def tests(self) -> list[Requirement]:
        """All tests of all alternatives."""
        return [test for alternative in self.alternatives for test in alternative]

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Return whether the condition holds for a proposal's settings so far."""
        return not self.alternatives or any(
            all(test.holds(settings) for test in alternative) for alternative in self.alternatives
        )

    def written(self) -> list[dict[str, Any]]:
        """Return the condition as a study file has it."""
        return [{test.path: test.written() for test in alternative} for alternative in self.alternatives]


ALWAYS = Condition()


def parse_condition(value: Any, key: str) -> Condition:
    """Return the condition that a study file's `key` has. Raises SpaceError."""
    tables = value if isinstance(value, list) else [value]
    if not tables or not all(isinstance(table, dict) and table for table in tables):
        raise SpaceError(key, f"got {shown(value)}; {FORM}")
    return Condition(tuple(tuple(_tests(table, key)) for table in tables))


def _tests(table: Mapping[str, Any], key: str, prefix: str = "") -> Iterator[Requirement]:
    for name, value in table.items():
        path = prefix + name
        if isinstance(value, dict) and set(value) != {"not"} and path not in known_settings():
            yield from _tests(value, key, f"{path}.")
            continue
        if path in ("experiment", "seed") or path not in known_settings():
            check_setting(path, key)
        negated = isinstance(value, dict)
        values = value.get("not") if isinstance(value, dict) else value
        values = values if isinstance(values, list) else [values]
        if not values or any(isinstance(one, dict) or one is None for one in values):
            raise SpaceError(key, f"{path} is {shown(value)}; allowed are a list of values, or {{ not = [values] }}")
        yield Requirement(path, tuple(values), negated)
