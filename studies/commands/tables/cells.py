"""Cells of the terminal's tables, and how many rows a table shows."""

from collections.abc import Sequence
from typing import Any

from rich.table import Column, Table

MOST_ROWS = 200  # of a table in the terminal: laying out more takes seconds


def plain_table(*columns: str | Column) -> Table:
    """Return an empty table without lines between its cells."""
    return Table(*columns, box=None, pad_edge=False)


def joined(*texts: str) -> str:
    """Return the texts that are not empty, separated by semicolons."""
    return "; ".join(filter(None, texts))


def number(value: float | None, form: str) -> str:
    """Format a number; return an empty string if it is missing or NaN."""
    return "" if value is None or value != value else format(value, form)


def interval(mean: float, low: float | None, high: float | None, form: str) -> str:
    """Format a mean and its confidence interval, such as `0.812 [0.790, 0.834]`; the mean alone if there is none."""
    return format(mean, form) + ("" if low is None else f" [{low:{form}}, {high:{form}}]")


def bytes_text(size: int) -> str:
    """Format a number of bytes in KiB, MiB or GiB."""
    for unit, length, form in (("GiB", 2**30, ".1f"), ("MiB", 2**20, ".0f" if size >= 10 * 2**20 else ".1f")):
        if size >= length / 10:
            return f"{size / length:{form}} {unit}"
    return f"{size / 2**10:.0f} KiB"


def duration(seconds: float) -> str:
    """Format a duration in the largest unit of which it has at least two."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def duration_range(low: float, high: float) -> str:
    """Format a range of durations, such as "2 min to 5 min"."""
    first, last = duration(low), duration(high)
    return first if first == last else f"{first} to {last}"


def more_rows(rows: Sequence[Any]) -> str:
    """Say how many rows a table of MOST_ROWS leaves out; an empty string if it shows all."""
    return f"{len(rows) - MOST_ROWS} more lines, which --json shows" if len(rows) > MOST_ROWS else ""
