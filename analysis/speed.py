"""What `diffseg bench` measured, as a table for the terminal and a chart."""

import altair as alt
import pandas as pd

from analysis.charts import COLOURS


def chart(rows: pd.DataFrame) -> alt.FacetChart:
    """Time of every way relative to the first of its contest, with the quartiles, a panel a contest."""
    first = rows.groupby(["subject", "network", "detail"], sort=False)["seconds"].transform(lambda ways: ways.iloc[0])
    title = rows[["subject", "network", "detail"]].agg(lambda parts: ", ".join(filter(None, parts)), axis=1)
    rows = rows.assign(contest=title, low=rows["low"] / first, high=rows["high"] / first)
    base = alt.Chart(rows).encode(y=alt.Y("way:N", title=None, sort=None, axis=alt.Axis(labelLimit=260)))
    bars = base.mark_bar(color=COLOURS[0]).encode(
        x=alt.X("ratio:Q", title="time relative to the first"),
        tooltip=["contest", "way", alt.Tooltip("seconds", format=".4g"), alt.Tooltip("ratio", format=".2f")],
    )
    spread = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    return (
        (bars + spread)
        .properties(width=260)
        .facet(alt.Facet("contest:N", title=None, sort=None), columns=2)
        .resolve_scale(y="independent")
    )


def table(rows: list[dict]):
    from rich.table import Table

    found = Table("what", "of", "way", "ms", "ratio", "images/s", "of peak", "GiB", box=None, pad_edge=False)

    def told(row: dict, name: str, form: str, unit: float = 1) -> str:
        return "" if pd.isna(row[name]) else format(row[name] / unit, form)

    for row in rows:
        found.add_row(
            f"{row['subject']}, {row['network']}".rstrip(", "),
            row["detail"],
            row["way"],
            told(row, "seconds", ".3g", 1e-3) or "does not fit into memory",
            told(row, "ratio", ".2f"),
            told(row, "images_per_second", ".3g"),
            told(row, "peak_share", ".0%"),
            told(row, "memory_bytes", ".2f", 2**30),
        )
    return found
