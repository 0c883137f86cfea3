"""What there is to choose from: studies (`studies`), networks (`networks`), presets (`presets`), settings (`settings`)."""

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.table import Column
from rich.text import Text

from diffseg.rows import Row
from studies.commands.tables.cells import joined, plain_table
from studies.commands.tables.named_table import NamedTable
from studies.definition.distinctions import format_setting
from studies.store.state import STATUSES

WIDE = 120  # characters of a line from which settings have a table's row each


def studies_table(found: Row) -> Group:
    """Return a table of the shipped studies, and one of the studies in the store with the counts of their trials."""
    return Group(_shipped_table(found["shipped"]), "", _stored_table(found["store"], found["studies"]))


def _shipped_table(shipped: list[Row]) -> NamedTable:
    table = NamedTable("shipped study", remark="what it is")
    for row in shipped:
        table.add_row(row["study"], remark=row["description"])
    return table


def _stored_table(store: str, studies: list[Row]) -> RenderableType:
    if not studies:
        return escape(f"There is no study in the store {store}: `diffseg run quickstart` starts one.")
    table = NamedTable("study in the store", "session", "trials", *STATUSES, caption=f"The store is {store}.")
    for row in studies:
        counts = [str(row["counts"][status] or "") for status in STATUSES]
        session = "running" if row["running"] else ""
        table.add_row(row["study"], session, str(row["trials"]), *counts, remark=row["problem"] or "")
    return table


def networks_table(networks: list[Row]) -> NamedTable:
    """Return a row for each network."""
    table = NamedTable("network", "experiments", remark="what it is")
    for row in networks:
        presets = f"presets {', '.join(row['presets'])}" if row["presets"] else ""
        remark = joined(f"{row['summary']} ({row['citation']})", presets)
        table.add_row(row["name"], ", ".join(row["experiments"]), remark=remark)
    return table


def presets_table(presets: list[Row]) -> NamedTable:
    """Return a row for each preset, with its settings as the command line takes them."""
    table = NamedTable("network", "preset", remark="settings")
    for row in presets:
        words = " ".join(f"{path}={format_setting(value)}" for path, value in row["settings"].items())
        table.add_row(row["network"], row["preset"], remark=words)
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
            table = plain_table(
                Column("setting", no_wrap=True),
                "type",
                "default",
                "allowed",
                "meaning",
                Column("used by", overflow="fold"),
            )
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
    allowed = " or ".join(filter(None, [", ".join(map(format_setting, row["choices"])), row["range"]]))
    default = "None" if row["default"] is None else format_setting(row["default"])
    return row["path"], row["type"], default, allowed, row["description"], row["used_by"]
