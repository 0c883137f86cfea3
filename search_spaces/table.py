"""A space that is a table of a study file, or of a file beside this one: an entry for each setting that varies."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffseg.config import Config
from diffseg.config.leaves import TABLES
from diffseg.config.sentences import shown
from diffseg.errors import ConfigError
from diffseg.suggestions import did_you_mean
from search_spaces.conditions import ALWAYS, Condition, Requirement, parse_condition
from search_spaces.domains import Choices, Domain, parse_domain
from search_spaces.errors import SpaceError
from search_spaces.settings import SPACE, check_setting, is_section, known_settings, networks_of
from search_spaces.trial import Trial, draw_settings

DRAWS = 20  # random proposals: a value is refused if all of them refuse it
KEYS = ("low", "high", "log", "step", "choices", "when")


@dataclass(frozen=True)
class Entry:
    """One setting of a space: what it is drawn from, and when."""

    path: str
    domain: Domain
    condition: Condition = ALWAYS

    @property
    def key(self) -> str:
        """The entry's key in the study file."""
        return f"{SPACE}.{self.path}"

    def describe(self) -> str:
        """Return the entry in words."""
        when = f" when {shown(self.condition.written())}" if self.condition.alternatives else ""
        return f"{self.domain.describe()}{when}"

    def written(self) -> dict[str, Any]:
        """Return the entry as a study file has it."""
        return self.domain.written() | ({"when": when} if (when := self.condition.written()) else {})


@dataclass(frozen=True)
class TableSpace:
    """A space of entries, each after those that its condition names."""

    entries: tuple[Entry, ...]
    name: str = ""  # of a shipped space

    def suggest(self, trial: Trial, start: Mapping[str, Any]) -> None:
        """Ask a trial for the settings of a proposal.

        Args:
            start: The settings of the trial that the search starts from, on which conditions may be.
        """
        varied = self.paths
        settings = {path: value for path, value in start.items() if path not in varied}
        for entry in self.entries:
            if entry.condition.holds(settings):
                settings[entry.path] = entry.domain.suggest(trial, entry.path)

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that have one value in all proposals."""
        return {
            entry.path: entry.domain.values[0]
            for entry in self.entries
            if isinstance(entry.domain, Choices) and len(entry.domain.values) == 1 and not entry.condition.alternatives
        }

    @property
    def paths(self) -> set[str]:
        """The settings that it sets in some proposals, fixed ones included."""
        return {entry.path for entry in self.entries}

    def can_draw(self, path: str, value: Any) -> bool:
        """Return whether some proposal may have a value of a setting."""
        return any(entry.path == path and value in entry.domain for entry in self.entries)

    def check(self, start: Config) -> None:
        """Raise SpaceError unless every value is allowed in itself in a search that starts from a configuration."""
        domains = {entry.path: entry.domain for entry in self.entries}
        networks = [start.network.name]
        if isinstance(own := domains.get("network.name"), Choices):
            networks = [str(name) for name in own.values]
        for entry in self.entries:
            network = next((name for name in networks if name in networks_of(entry.path)), None)
            if network is None and entry.path != "network.name":
                raise SpaceError(
                    entry.key,
                    f"{entry.path} is a setting of {', '.join(networks_of(entry.path))}, "
                    f"but the search starts from {start.network.name}",
                )
            for word, value in entry.domain.samples.items():
                if reason := self._find_refusal(start, network, entry.path, value):
                    raise SpaceError(entry.key, f"{word}, {shown(value)}, is refused ({reason})")
            for test in entry.condition.tests:
                _check_test(start, domains, test, f"{entry.key}.when")

    def _find_refusal(self, start: Config, network: str | None, path: str, value: Any) -> str:
        """Return why a value is refused whatever other settings the space draws; an empty text if it is not."""
        chosen = {"network.name": network} if network else {}
        reason = find_refusal(start, chosen | {path: value})
        section, _, leaf = path.rpartition(".")
        if not reason or not reason.startswith(f"{section}: {leaf} is "):
            return reason if reason.startswith((f"{path}: got", f"{path}.")) or path == "network.name" else ""
        leaves = start.leaves()
        drawn = (draw_settings(lambda trial: self.suggest(trial, leaves), seed) for seed in range(DRAWS))
        return reason if all(find_refusal(start, one | {path: value}) == reason for one in drawn) else ""

    def written(self) -> Any:
        """Return the space as a study's definition has it."""
        return self.name or {entry.path: entry.written() for entry in self.entries}

    def describe(self) -> dict[str, str]:
        """Return the entries in words, by their settings."""
        return {entry.path: entry.describe() for entry in self.entries}


def _check_test(start: Config, domains: Mapping[str, Domain], test: Requirement, key: str) -> None:
    """Raise SpaceError if a condition names a value that its setting cannot have."""
    for value in test.values:
        domain = domains.get(test.path)
        if domain is None:
            if test.path not in start.leaves():
                raise SpaceError(
                    key,
                    f"{test.path} is a setting of {', '.join(networks_of(test.path))}, which neither the space nor the "
                    f"search's start, {start.network.name}, has",
                )
            if (reason := find_refusal(start, {test.path: value})).startswith(f"{test.path}: got"):
                raise SpaceError(key, f"{shown(value)} is refused ({reason})")
        elif value not in domain:
            near = did_you_mean(str(value), map(str, domain.values)) if isinstance(domain, Choices) else ""
            raise SpaceError(key, f"{test.path} is never {shown(value)}{near}: the space has {domain.describe()}")


def find_refusal(start: Config, settings: dict[str, Any]) -> str:
    """Return why the configuration refuses settings; an empty text if it does not."""
    try:
        start.with_leaves(settings)
    except ConfigError as error:
        return str(error)
    return ""


def parse_table(table: Mapping[str, Any], name: str = "") -> TableSpace:
    """Return the space of a table. Raises SpaceError in one sentence."""
    entries: dict[str, Entry] = {}
    for path, value in _flatten(table):
        if path in entries:
            raise SpaceError(f"{SPACE}.{path}", "is given twice; give it once")
        entries[path] = _parse_entry(path, value)
    if not entries:
        raise SpaceError(SPACE, "is empty; give settings such as training.learning_rate = { low = 1e-5, high = 1e-2 }")
    return TableSpace(tuple(_sort_by_conditions(entries)), name)


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested tables by their dotted paths."""
    for name, value in table.items():
        path = prefix + name
        if isinstance(value, dict) and value and path not in known_settings() and _is_nested(path, value):
            yield from _flatten(value, f"{path}.")
        else:
            yield path, value


def _is_nested(path: str, table: Mapping[str, Any]) -> bool:
    """Return whether a table holds entries, rather than being one of an unknown setting."""
    return is_section(path) or not table.keys() & set(KEYS)


def _parse_entry(path: str, value: Any) -> Entry:
    key = f"{SPACE}.{path}"
    check_setting(path, key)
    if not isinstance(value, dict) or (path in TABLES and "choices" not in value):
        return Entry(path, Choices((value,)))
    if unknown := [name for name in value if name not in KEYS]:
        raise SpaceError(
            key, f"unknown key '{unknown[0][:40]}'{did_you_mean(unknown[0], KEYS)}; allowed are {', '.join(KEYS)}"
        )
    if "choices" in value and (others := value.keys() & {"low", "high", "log", "step"}):
        raise SpaceError(key, f"choices and {min(others)} exclude each other; give a range or choices")
    if not value.keys() & {"choices", "low", "high"}:
        raise SpaceError(key, f"got {shown(value)}; allowed are a range (low, high), choices, or a value")
    condition = parse_condition(value["when"], f"{key}.when") if "when" in value else ALWAYS
    return Entry(path, parse_domain(value, path, key), condition)


def _sort_by_conditions(entries: Mapping[str, Entry]) -> list[Entry]:
    """Sort entries so that each comes after those that its condition names. Raises SpaceError for a circle."""
    done: dict[str, Entry] = {}

    def add(path: str, chain: tuple[str, ...]) -> None:
        if path in chain:
            circle = " → ".join((*chain[chain.index(path) :], path))
            raise SpaceError(
                f"{SPACE}.{chain[0]}.when", f"the conditions form a circle ({circle}); leave one of them out"
            )
        if path in done or path not in entries:
            return
        for test in entries[path].condition.tests:
            add(test.path, (*chain, path))
        done[path] = entries[path]

    for path in entries:
        add(path, ())
    return list(done.values())
