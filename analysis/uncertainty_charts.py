"""Charts of uncertainty: reliability, risk and coverage, error and variance, and GED over the number of samples.

Each function takes Tables and returns None if it has no data.
"""

from typing import Any

import altair as alt
import pandas as pd

from analysis import uncertainty
from analysis.style import encode_series, facet_by_dataset
from analysis.tables import Tables
from diffseg.labels.classes import FOREGROUND
from studies.store.classes import ALL

FEW = 8  # images, below which a risk is that of single images


def reliability(tables: Tables) -> alt.ConcatChart | None:
    """Draw the share of a class against its mean predicted probability in ten bins, and below, the pixels in each bin.

    A panel for each data set and class.
    """
    rows = uncertainty.pooled_calibration(tables)
    if rows.empty:
        return None
    look, domain = encode_series(tables, rows["series"]), alt.Scale(domain=[0, 1])
    panels = []
    for (dataset, name), ours in rows.sort_values("dataset", kind="stable").groupby(["dataset", "class"], sort=False):
        tooltip = _tooltip(*(["class"] if name != ALL else []), "bin", "count", "confidence", "accuracy")
        base = alt.Chart(ours).encode(color=look["color"], tooltip=tooltip)
        x = alt.X("confidence:Q", title=None, scale=domain)
        y = alt.Y("accuracy:Q", title=f"share of {FOREGROUND if name == ALL else name}", scale=domain)
        lines = base.encode(x=x, y=y)
        points = lines.mark_point(filled=True, opacity=0.9, size=45).encode(shape=look["shape"])
        curve = alt.layer(_diagonal(ours), lines.mark_line(strokeWidth=1.2), points).properties(
            width=240, height=240, title=dataset if name == ALL else f"{dataset}: {name}"
        )
        axis = alt.Axis(values=[10**k for k in range(0, 13, 2)], format="~s")
        y = alt.Y("count:Q", title="pixels (log)", scale=alt.Scale(type="log"), axis=axis)
        counts = base.encode(x=alt.X("confidence:Q", title="predicted probability", scale=domain), y=y)
        counts = counts.mark_line(strokeWidth=1, point={"size": 15}).properties(width=240, height=80)
        panels.append(alt.vconcat(curve, counts))
    return alt.concat(*panels, columns=3)


def risk_coverage_curves(tables: Tables) -> alt.FacetChart | None:
    """Draw the risk over the coverage by ensemble variance; dotted, the risk when the worst images are left out.

    It is shaded where fewer than FEW images are left.
    """
    rows = uncertainty.risk_coverage(tables)
    if rows.empty:
        return None
    images = uncertainty.aurc(tables).groupby("dataset")["images"].min()
    rows = rows.assign(few=(FEW / rows["dataset"].map(images)).clip(upper=1))
    look = encode_series(tables, rows["series"])
    base = alt.Chart(rows).encode(
        x=alt.X("coverage:Q", title="coverage: share of images kept", axis=alt.Axis(format="%")),
        color=look["color"],
        tooltip=_tooltip("coverage", "risk", "oracle"),
    )
    y = alt.Y("risk:Q", title="risk: mean 1 − Dice")
    oracle = base.mark_line(strokeWidth=1, strokeDash=[1, 2]).encode(y="oracle:Q")
    few = alt.Chart(rows).transform_aggregate(few="max(few)", groupby=["dataset"]).transform_calculate(zero="0")
    shade = few.mark_rect(color="#888", opacity=0.15).encode(x="zero:Q", x2="few:Q")
    return facet_by_dataset(alt.layer(shade, oracle, base.mark_line().encode(y=y, strokeDash=look["strokeDash"])), rows)


def error_against_variance(tables: Tables) -> alt.FacetChart | None:
    """Draw the Brier score against the ensemble variance, in ten groups of images; both are equal on the diagonal."""
    rows = uncertainty.error_by_variance(tables)
    if rows.empty:
        return None
    end = float(max(rows["variance"].max(), rows["error"].max()))
    shared = alt.Scale(domain=[0, end], nice=True)
    look = encode_series(tables, rows["series"])
    base = alt.Chart(rows).encode(
        x=alt.X("variance:Q", title="ensemble variance", scale=shared),
        y=alt.Y("error:Q", title="Brier score", scale=shared),
        color=look["color"],
        tooltip=_tooltip("images", "variance", "error"),
    )
    points = base.mark_point(filled=True, size=45).encode(shape=look["shape"])
    return facet_by_dataset(alt.layer(_diagonal(rows, end), base.mark_line(strokeWidth=1), points), rows)


def ged_over_samples(tables: Tables) -> alt.FacetChart | None:
    """Draw the GED over the number of samples: as published, biased by that number, and dashed without the bias."""
    rows = uncertainty.ged_by_samples(tables)
    if rows.empty:
        return None
    look = encode_series(tables, rows["series"])
    dash = alt.StrokeDash("estimate:N", title="estimate", scale=alt.Scale(range=[[1, 0], [4, 3]]))
    lines = (
        alt.Chart(rows)
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "samples:Q", title="samples (log scale)", scale=alt.Scale(type="log", base=2), axis=alt.Axis(format="d")
            ),
            y=alt.Y("ged:Q", title="GED"),
            color=look["color"],
            strokeDash=dash,
            shape=look["shape"],
            tooltip=_tooltip("samples", "estimate", "ged"),
        )
    )
    return facet_by_dataset(lines, rows)


def image_calibrations(tables: Tables) -> alt.FacetChart | None:
    """Draw the ECE of single images, of their foreground and boundary: median, and a bar over the middle half of the images."""
    rows = uncertainty.image_calibration(tables)
    if rows.empty:
        return None
    look = encode_series(tables, rows["series"])
    base = alt.Chart(rows).encode(
        y=alt.Y("region:N", title=None, sort=list(uncertainty.REGIONS.values())),
        yOffset="series:N",
        color=look["color"],
        tooltip=_tooltip("region", "images", "mean", "low", "median", "high"),
    )
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title="ECE of an image"), x2="high:Q")
    points = base.mark_point(filled=True, size=45, opacity=1).encode(x="median:Q", shape=look["shape"])
    height = 3 * max(40, 9 * rows["series"].nunique())
    return facet_by_dataset(alt.layer(bars, points), rows, height)


def _diagonal(rows: pd.DataFrame, end: float = 1.0) -> Any:
    """Draw the diagonal, on which both axes are equal."""
    line = alt.Chart(rows).transform_aggregate(groupby=["dataset"]).transform_calculate(zero="0", end=str(end))
    return line.mark_rule(color="#888", strokeDash=[2, 2]).encode(x="zero:Q", x2="end:Q", y="zero:Q", y2="end:Q")


def _tooltip(*names: str) -> list[Any]:
    """Return the tooltip of these columns, after data set and series."""
    forms = {"count": ",", "images": ",", "coverage": ".0%"}
    words = ("class", "region", "estimate", "bin", "samples")
    return ["dataset", "series", *(n if n in words else alt.Tooltip(n, format=forms.get(n, ".4f")) for n in names)]
