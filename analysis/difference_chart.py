"""Charts of differences with their intervals: to a baseline, and of E2 to E1."""

from typing import Any

import altair as alt
import pandas as pd

from analysis.comparison import NAMES, SHOWN_OF_CLASSES
from analysis.segmentations import in_percent
from analysis.statistics import LEVEL
from analysis.style import COLOURS
from studies.store.classes import ALL

FOREST = {
    "iou": "IoU, points (right: E2 better)",
    "ece": "ECE (left: E2 better)",
    "brier": "Brier score (left: E2 better)",
}


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


def e1_against_e2(table1: pd.DataFrame) -> alt.HConcatChart | None:
    """Draw the differences E2 − E1 in IoU, ECE and Brier score with their intervals, a row for each of Table 1 (a forest plot).

    The rows are those of all classes at once. None without a tested difference.

    table1: From `comparison.against_e1`.
    """
    rows = in_percent(table1[table1["class"] == ALL]) if len(table1) else table1
    panels: list[Any] = []
    for metric, title in FOREST.items():
        known = rows.dropna(subset=[f"{metric}_low"]) if f"{metric}_low" in rows else rows[:0]
        if len(known):
            kept = {"difference": f"{metric}_difference", "low": f"{metric}_low", "high": f"{metric}_high"}
            frame = pd.DataFrame({name: known[column] for name, column in kept.items()})
            frame = frame.assign(row=[_name_row(each) for each in known.to_dict("records")])
            frame = frame.assign(significant=known[f"{metric}_p"] < LEVEL, verdict=known[f"{metric}_verdict"])
            panels.append(_forest_panel(frame, title, labelled=not panels))
    return alt.hconcat(*panels) if panels else None


def _name_row(row: dict[str, Any]) -> str:
    """Return what a row of Table 1 is called: data set, network and the variants that it compares."""
    variants = [row[name] for name in ("variant_e1", "variant_e2") if row[name]]
    return " · ".join([row["dataset"], row["network"], *variants])


def _forest_panel(rows: pd.DataFrame, title: str, labelled: bool) -> Any:
    """Draw the differences in one metric; labelled: whether the rows are named."""
    axis = alt.Axis(labelLimit=240) if labelled else None
    base = alt.Chart(rows).encode(y=alt.Y("row:N", title=None, sort=None, axis=axis))
    zero = alt.Chart(rows).mark_rule(color="#888").encode(x=alt.datum(0))
    bars = base.mark_rule(strokeWidth=2, color=COLOURS[0]).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    points = _points(base, COLOURS[0])
    return alt.layer(zero, bars, points).properties(width=200, height={"step": 26})


def _points(base: Any, colour: str) -> Any:
    """Draw differences as points, filled where they are significant."""
    filled = alt.Scale(domain=[True, False], range=[colour, "#fff"])
    return base.mark_point(size=70, color=colour, strokeWidth=2, opacity=1).encode(
        x="difference:Q",
        fill=alt.Fill("significant:N", legend=None, scale=filled),
        tooltip=[
            "row",
            alt.Tooltip("difference", format=".4g"),
            alt.Tooltip("low", format=".4g"),
            alt.Tooltip("high", format=".4g"),
            "verdict",
        ],
    )


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
