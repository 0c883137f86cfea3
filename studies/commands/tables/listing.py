"""What there is to choose from: studies (`studies`), networks (`networks`), presets (`presets`), settings (`settings`)."""

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from studies.commands.tables.cells import name_column, plain_table
from studies.store.state import STATUSES

Row = dict[str, Any]


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
    table = plain_table(name_column(escape(f"study in {store}")), "session", "trials", *STATUSES, "problem")
    for row in studies:
        counts = [str(row["counts"][status] or "") for status in STATUSES]
        session = "running" if row["running"] else ""
        table.add_row(escape(row["study"]), session, str(row["trials"]), *counts, escape(row["problem"] or ""))
    return table
