"""Configurations compared with their baseline (`compare`)."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Column
from rich.text import Text

from analysis import group_dice
from analysis.comparison import NAMES, select_shown
from diffseg.nouns import noun, patients
from studies.commands.tables.cells import interval, number, plain_table
from studies.store.classes import ALL

COLUMNS = ("configuration", "seeds", "images", "mean", "difference", "effect", "p", "verdict")
ALIKE = ("dataset", "network", "class", "metric")  # what the rows of one table share
LEAST = {
    "configuration": 14,
    "mean": 14,
    "difference": 16,
    "verdict": 11,
}  # widths of columns whose cells may be folded
Row = dict[str, Any]


class ComparisonTable:
    """A table of configurations for each data set, class and metric, in columns that are as wide in all of them.

    Where the terminal is too narrow for a line a configuration, intervals go below their means.
    """

    def __init__(self, rows: list[Row], of_class: str | None = None):
        """Take rows of `compare_configurations`; of_class: the class to show, None for the usual ones (`select_shown`)."""
        self._rows = select_shown(rows, of_class)
        self._more = list(dict.fromkeys(row["class"] for row in rows)) if of_class is None else []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the tables, each below its heading, and what the intervals cover."""
        usual = max((row["seeds"] for row in self._rows), default=0)
        cells = [_cells(row, usual) for row in self._rows]
        widths = _choose_widths(cells, options.max_width)
        pairs = zip(self._rows, cells, strict=True)
        several = len({row["network"] for row in self._rows}) > 1
        for _, group in groupby(pairs, key=lambda pair: [pair[0][name] for name in ALIKE]):
            rows, lines = zip(*group, strict=True)
            yield Text(_heading(rows[0], several), style="bold")
            table = plain_table(*(Column(name, width=widths[name], overflow="fold") for name in widths))
            for line in lines:
                table.add_row(*(escape(_fold(line[name], widths[name])) for name in widths))
            yield table
            yield ""
        yield Text(" ".join(self._notes()), style="dim italic")

    def _notes(self) -> Iterator[str]:
        """Yield sentences on what the table shows."""
        yield "Means over images with 95 % intervals over units (patients or volumes, else images) and seeds."
        yield "Differences are paired by seed and image."
        if sum(not row["baseline"] for row in self._rows if row["metric"] == self._rows[0]["metric"]) > 1:
            yield "P-values are corrected for the number of configurations (Holm), intervals are not."
        if len({row["seeds"] for row in self._rows}) > 1:
            yield "Some configurations have fewer seeds (seeds): their differences are over those that the baseline has, too."
        if any(row["seeds"] == 1 for row in self._rows):
            yield "Those of one seed speak of units alone."
        if any(row["left_out"] for row in self._rows):
            yield "Images that are NaN for a seed are left out (n of N)."
        if self._more:
            yield f"--class NAME shows all metrics of a class ({', '.join(self._more)})."


def _heading(first: Row, with_network: bool) -> str:
    """Return what the rows below have in common with the first one, the baseline's, and its seeds, images and units."""
    unit = f" in {first['unit']}" if first["unit"] else ""
    metric = NAMES[first["metric"]] + unit + (f", class {first['class']}" if first["class"] != ALL else "")
    place = ", ".join([first["dataset"], *([first["network"]] if with_network else [])])
    units = f"{first['units']} {patients(first['units'])}"
    images = f"{first['images']} {noun(first['images'], 'image')}"
    if first["units"] != first["images"]:
        images += f" of {units}"
    elif first["metric"] == group_dice.NAME:
        images = units
    counts = [f"{first['seeds']} {noun(first['seeds'], 'seed')}", *([images] if first["images"] else [])]
    return f"{metric}, {place}: {', '.join(counts)}"


def _cells(row: Row, usual: int) -> dict[str, str]:
    """Return the cells of a row by their columns. usual: the number of seeds that is not shown."""
    form = ".0f" if row["metric"] == "steps" else ".3f"
    cells = {
        "configuration": row["configuration"],
        "seeds": str(row["seeds"]) if row["seeds"] != usual else "",
        "images": _images(row),
        "mean": interval(row["mean"], row["low"], row["high"], form),
    }
    if row["baseline"]:
        return cells | {"difference": "", "effect": "", "p": "", "verdict": "baseline"}
    difference = interval(row["difference"], row["difference_low"], row["difference_high"], form)
    tested = {"effect": number(row["effect"], ".2f"), "p": _p_value(row["p"]), "verdict": row["verdict"]}
    return cells | {"difference": difference, **tested}


def _choose_widths(cells: list[dict[str, str]], most: int) -> dict[str, int]:
    """Return the width of each column that has a cell, so that all fit into a line of `most` characters."""
    shown = [name for name in COLUMNS if any(line[name] for line in cells)]
    widths = {name: max(len(name), *(len(line[name]) for line in cells)) for name in shown}
    over = sum(widths.values()) + 2 * (len(widths) - 1) - most
    for name in ("verdict", "difference", "mean", "configuration"):  # which is folded first
        if over > 0 and name in widths:
            width = max(min(LEAST[name], widths[name]), widths[name] - over)
            over -= widths[name] - width
            widths[name] = width
    return widths


def _fold(text: str, width: int) -> str:
    """Return a mean with its interval below it where both are too wide for a line. Other texts fold by themselves."""
    return text.replace(" [", "\n[") if len(text) > width else text


def _images(row: Row) -> str:
    return f"{row['images']} of {row['images'] + row['left_out']}" if row["left_out"] else ""


def _p_value(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else number(value, ".3f")
