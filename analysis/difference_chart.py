"""The chart of differences to the baseline."""

import altair as alt
import pandas as pd

from analysis.comparison import NAMES, SHOWN_OF_CLASSES
from analysis.statistics import LEVEL
from analysis.style import COLOURS
from studies.store.classes import ALL


def differences(compared: pd.DataFrame) -> alt.ConcatChart | None:
    """Draw each configuration's difference to the baseline with its interval, a panel for each metric, class and data set.

    compared: from `comparison.compare_configurations`, of which the rows of `select_shown` are drawn. None if it has no
    difference with an interval. Significant differences are filled.
    """
    if compared.empty or "difference" not in compared:
        return None
    rows = compared[~compared["baseline"] & compared["difference_low"].notna()]
    rows = rows[(rows["class"] == ALL) | rows["metric"].isin(SHOWN_OF_CLASSES)]
    rows = rows.assign(significant=rows["p"] < LEVEL)
    panels = [
        _panel(group, NAMES[metric] if name == ALL else f"{NAMES[metric]}, {name}")
        for (metric, name), group in rows.groupby(["metric", "class"], sort=False)
    ]
    return alt.concat(*panels, columns=max(1, 3 // rows["dataset"].nunique())) if panels else None


def _panel(rows: pd.DataFrame, title: str) -> alt.FacetChart:
    """Draw the differences in one metric, a panel for each data set."""
    base = alt.Chart().encode(y=alt.Y("configuration:N", title=None, sort=None, axis=alt.Axis(labelLimit=320)))
    zero = alt.Chart().mark_rule(color="#666").encode(x=alt.datum(0))
    bars = base.mark_rule(strokeWidth=2, color=COLOURS[0])
    bars = bars.encode(x=alt.X("difference_low:Q", title=f"difference in {title}"), x2="difference_high:Q")
    filled = alt.Scale(domain=[True, False], range=[COLOURS[0], "#fff"])
    points = base.mark_point(size=70, color=COLOURS[0], strokeWidth=2).encode(
        x="difference:Q",
        fill=alt.Fill("significant:N", legend=None, scale=filled),
        tooltip=["dataset", "configuration", "seeds", alt.Tooltip("difference", format=".4g"), "verdict"],
    )
    layers = alt.layer(zero, bars, points, data=rows).properties(width=210)
    return layers.facet(facet=alt.Facet("dataset:N", title=None), columns=3)
