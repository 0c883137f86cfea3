"""A chart of what `diffseg bench` measured."""

import altair as alt
import pandas as pd

from analysis.style import COLOURS

BENCHMARK = ["subject", "network", "detail"]  # columns that name a benchmark


def draw_speed(rows: pd.DataFrame) -> alt.FacetChart:
    """Draw the time of each way relative to the first way of its benchmark, with quartiles, a panel for each benchmark.

    rows: of the table that `diffseg bench` writes.
    """
    first = rows.groupby(BENCHMARK, sort=False)["seconds"].transform(lambda ways: ways.iloc[0])
    title = rows[BENCHMARK].agg(lambda parts: ", ".join(filter(None, parts)), axis=1)
    rows = rows.assign(benchmark=title, low=rows["low"] / first, high=rows["high"] / first)
    base = alt.Chart(rows).encode(y=alt.Y("way:N", title=None, sort=None, axis=alt.Axis(labelLimit=260)))
    bars = base.mark_bar(color=COLOURS[0]).encode(
        x=alt.X("ratio:Q", title="time relative to the first"),
        tooltip=["benchmark", "way", alt.Tooltip("seconds", format=".4g"), alt.Tooltip("ratio", format=".2f")],
    )
    spread = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    panels = alt.layer(bars, spread).properties(width=260)
    panels = panels.facet(alt.Facet("benchmark:N", title=None, sort=None), columns=2)
    chart: alt.FacetChart = panels.resolve_scale(y="independent")
    return chart
