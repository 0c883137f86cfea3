"""What there is to choose from: studies (`studies`), networks (`networks`), presets (`presets`), settings (`settings`)."""

import json
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from diffseg.rows import Row
from studies.commands.tables.cells import name_column, plain_table
from studies.store.state import STATUSES


def studies_table(found: Row) -> Group:
    """Return a table of the shipped studies, and one of the studies in the store with the counts of their trials."""
    return Group(_shipped_table(found["shipped"]), "", _stored_table(found["store"], found["studies"]))


def _shipped_table(shipped: list[Row]) -> Table:
    table = plain_table("shipped study", "what it is")
    for row in shipped:
        table.add_row(escape(row["study"]), escape(row["description"]))
    return table


def _stored_table(store: str, studies: list[Row]) -> RenderableType:
    if not studies:
        return escape(f"There is no study in the store {store}: `diffseg run quickstart` starts one.")
    table = plain_table(name_column(escape(f"study in {store}")), "session", "trials", *STATUSES)
    for row in studies:
        counts = [str(row["counts"][status] or "") for status in STATUSES]
        session = "running" if row["running"] else ""
        table.add_row(escape(row["study"]), session, str(row["trials"]), *counts)
    problems = [escape(row["problem"]) for row in studies if row["problem"]]
    return Group(table, *problems)


def networks_table(networks: list[Row]) -> Table:
    """Return a row for each network."""
    table = plain_table("network", "what it is", "experiments", "presets", "source")
    for row in networks:
        lists = ", ".join(row["experiments"]), ", ".join(row["presets"])
        table.add_row(*map(escape, (row["name"], row["summary"], *lists, row["citation"])))
    return table


def presets_table(presets: list[Row]) -> Table:
    """Return a row for each preset, with its settings as the command line takes them."""
    table = plain_table("network", name_column("preset"), "settings")
    for row in presets:
        words = " ".join(f"{path}={_value(value)}" for path, value in row["settings"].items())
        table.add_row(*map(escape, (row["network"], row["preset"], words)))
    return table


def settings_table(settings: list[Row]) -> Table:
    """Return a row for each setting, or for each of its defaults."""
    table = plain_table(name_column("setting"), "type", "default", "allowed", "meaning", name_column("used by"))
    for row in settings:
        allowed = " or ".join(filter(None, [", ".join(map(_value, row["choices"])), row["range"]]))
        cells = (
            row["path"],
            row["type"],
            "None" if row["default"] is None else _value(row["default"]),
            allowed,
            row["description"],
            row["used_by"],
        )
        table.add_row(*map(escape, cells))
    return table


def _value(value: Any) -> str:
    """Return a setting's value as the command line takes it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
