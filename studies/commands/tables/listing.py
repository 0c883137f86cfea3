"""What there is to choose from: studies (`studies`), networks (`networks`), presets (`presets`), settings (`settings`)."""

import json
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from diffseg.rows import Row
from studies.commands.tables.cells import name_column, plain_table
from studies.store.state import STATUSES

WIDE = 120  # characters of a line from which settings have a table's row each


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


class SettingsTable:
    """A row for each setting, or for each of its defaults; in a narrow terminal a paragraph."""

    def __init__(self, settings: list[Row]):
        """Take rows of `diffseg.config.describe.settings`."""
        self._settings = settings

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, or the paragraphs."""
        cells = [_setting_cells(row) for row in self._settings]
        if options.max_width >= WIDE:
            table = plain_table(name_column("setting"), "type", "default", "allowed", "meaning", name_column("used by"))
            for row in cells:
                table.add_row(*map(escape, row))
            yield table
            return
        for path, kind, default, allowed, meaning, used_by in cells:
            facts = [kind, f"allowed: {allowed}" if allowed else "", f"used by: {used_by}" if used_by else ""]
            yield Text(f"{path} = {default}", style="bold")
            yield Padding(Text(f"{meaning} ({'; '.join(filter(None, facts))})"), (0, 0, 0, 4))


def _setting_cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a setting: path, type, default, allowed values, meaning, and what uses it."""
    allowed = " or ".join(filter(None, [", ".join(map(_value, row["choices"])), row["range"]]))
    default = "None" if row["default"] is None else _value(row["default"])
    return row["path"], row["type"], default, allowed, row["description"], row["used_by"]


def _value(value: Any) -> str:
    """Return a setting's value as the command line takes it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
