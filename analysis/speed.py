"""A chart of what `diffseg bench` measured."""

import altair as alt
import pandas as pd

from analysis.style import COLOURS


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
