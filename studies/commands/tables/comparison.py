"""Configurations compared with their baseline (`compare`)."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from analysis.comparison import LISTED, NAMES
from studies.commands.tables.cells import interval, number, plain_table

COLUMNS = (
    "data set",
    "metric",
    "configuration",
    "seeds",
    "images",
    "units",
    "mean",
    "difference",
    "effect",
    "p",
    "verdict",
)


def comparison_table(rows: list[dict[str, Any]]) -> Table:
    """Return a row for each configuration and listed metric; the caption says what the intervals cover."""
    table, every = plain_table(*COLUMNS), rows
    rows = [row for row in every if row["metric"] in LISTED]
    for row in rows:
        form = ".0f" if row["metric"] == "steps" else ".3f"
        counts = [str(row["seeds"]), _images(row), str(row["units"] or "")]
        names = escape(row["dataset"]), NAMES[row["metric"]], escape(row["configuration"])
        mean = interval(row["mean"], row["low"], row["high"], form)
        table.add_row(*names, *counts, mean, *_test_cells(row, form))
    table.caption = "Means over images with 95 % intervals over units (patients or volumes, else images) and seeds"
    if any(row["seeds"] == 1 for row in rows):
        table.caption += "; those of one seed speak of units alone"
    if any(row["left_out"] for row in rows):
        table.caption += "; images that are NaN for a seed are left out (n of N)"
    if others := dict.fromkeys(row["metric"] for row in every if row["metric"] not in LISTED):
        table.caption += f"; --json also has {', '.join(others)}"
    return table


def _test_cells(row: dict[str, Any], form: str) -> tuple[str, str, str, str]:
    """Return the cells difference, effect, p and verdict."""
    if row["baseline"]:
        return "", "", "", "baseline"
    difference = interval(row["difference"], row["difference_low"], row["difference_high"], form)
    return difference, number(row["effect"], ".2f"), _p_value(row["p"]), row["verdict"]


def _images(row: dict[str, Any]) -> str:
    of_all = f" of {row['images'] + row['left_out']}" if row["left_out"] else ""
    return f"{row['images']}{of_all}" if row["images"] else ""


def _p_value(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else number(value, ".3f")
