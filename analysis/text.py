"""Tables for the terminal."""

from analysis.comparison import NAMES
from studies.state import number


def comparison_table(rows: list[dict]):
    """Configurations against their baseline."""
    from rich.table import Table

    table = Table(
        "data set",
        "metric",
        "configuration",
        "seeds",
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
        told = ("", "", "", "baseline")
        if not row["baseline"]:
            difference = _interval(row["difference"], row["difference_low"], row["difference_high"], form)
            told = (difference, number(row["effect"], ".2f"), _p(row["p"]), row["verdict"])
        table.add_row(row["dataset"], NAMES[row["metric"]], row["configuration"], str(row["seeds"]), mean, *told)
    return table


def _p(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else number(value, ".3f")


def _interval(mean: float, low: float | None, high: float | None, form: str) -> str:
    return format(mean, form) + ("" if low is None else f" [{low:{form}}, {high:{form}}]")
