"""Tables for the terminal."""

from analysis.comparison import NAMES
from studies.store.state import number


def comparison_table(rows: list[dict]):
    """Configurations against their baseline."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(
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
        box=None,
        pad_edge=False,
    )
    for row in rows:
        form = ".0f" if row["metric"] == "steps" else ".3f"
        mean = _interval(row["mean"], row["low"], row["high"], form)
        tested = ("", "", "", "baseline")
        if not row["baseline"]:
            difference = _interval(row["difference"], row["difference_low"], row["difference_high"], form)
            tested = (difference, number(row["effect"], ".2f"), _p(row["p"]), row["verdict"])
        counts = [str(row["seeds"]), _images(row), str(row["units"] or "")]
        names = escape(row["dataset"]), NAMES[row["metric"]], escape(row["configuration"])
        table.add_row(*names, *counts, mean, *tested)
    table.caption = "Means over images with 95 % intervals over units (patients or volumes, else images) and seeds"
    if any(row["seeds"] == 1 for row in rows):
        table.caption += "; those of one seed speak of units alone"
    if any(row["left_out"] for row in rows):
        table.caption += "; images that are NaN for a seed are left out (n of N)"
    return table


def _images(row: dict) -> str:
    of_all = f" of {row['images'] + row['left_out']}" if row["left_out"] else ""
    return f"{row['images']}{of_all}" if row["images"] else ""


def _p(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else number(value, ".3f")


def _interval(mean: float, low: float | None, high: float | None, form: str) -> str:
    return format(mean, form) + ("" if low is None else f" [{low:{form}}, {high:{form}}]")
