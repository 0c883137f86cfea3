"""The study's exhibits as Altair charts, with the axes of the paper's figures. Each takes Tables and returns a chart or None."""

import altair as alt
import pandas as pd

from analysis import tables as t
from analysis.tables import Tables

# Okabe & Ito's palette, which colour-blind readers can tell apart; black and yellow are left out for both themes' sake
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"]
T_AXIS = "t (0 clean, 1 noise)"
alt.data_transformers.disable_max_rows()


def mask_errors(tables: Tables) -> alt.FacetChart | None:
    """Mask error over t, E2 against E3, a panel for each data set (Fig. 3 left)."""
    return _panels(t.errors(tables, ["e2", "e3"], "mask_error"), "mean squared mask error")


def losses(tables: Tables) -> alt.FacetChart | None:
    """Loss over t of E2 with the ε-target and of E4, at the first snapshot (Fig. 3 middle and right)."""
    epsilon = (
        set(tables.trials.loc[tables.trials["config_diffusion_target"] == "epsilon", "trial"])
        if len(tables.trials)
        else set()
    )
    kept = tables.timesteps[tables.timesteps["trial"].isin(epsilon)]
    curves = t.errors(Tables(**{**vars(tables), "timesteps": kept}), ["e2", "e4"], "loss", snapshot="first")
    return _panels(curves, "ε-loss (log scale)", scale=alt.Scale(type="log"))


def fingerprints(tables: Tables) -> alt.LayerChart | None:
    """E3's mask error over t for every data set, with the point at half its maximum (Fig. 4)."""
    curves = t.errors(tables, ["e3"], "mask_error")
    if curves.empty:
        return None
    colour = alt.Color("dataset:N", title=None, scale=_scale(curves["dataset"]))
    dash = alt.StrokeDash("dataset:N", title=None)
    detail = ["network:N", "variant:N"]
    lines = _line(curves, "mean squared mask error").encode(color=colour, strokeDash=dash, detail=detail)
    points = (
        alt.Chart(t.half_maxima(curves))
        .mark_point(filled=True, size=90)
        .encode(
            x="t:Q",
            y="mean:Q",
            color=colour,
            shape=alt.Shape("dataset:N", title=None),
            tooltip=[
                "dataset",
                alt.Tooltip("t", format=".3f", title="t at half maximum"),
                alt.Tooltip("mean", format=".3f"),
            ],
        )
    )
    return (lines + points).properties(width=560, height=300)


def learning_curves(tables: Tables) -> alt.FacetChart | None:
    """Training loss over the steps, log scale, a panel for each data set."""
    rows = tables.curves[tables.curves["metric"] == "loss"]
    if rows.empty:
        return None
    rows = (
        rows.groupby(["dataset", "experiment", "network", "variant", "step"], sort=False)["value"].mean().reset_index()
    )
    rows["series"] = t._series(rows)
    chart = (
        alt.Chart(rows)
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("value:Q", title="training loss (log scale)", scale=alt.Scale(type="log")),
            color=alt.Color("series:N", title=None, scale=_scale(rows["series"])),
            strokeDash=alt.StrokeDash("series:N", title=None),
            tooltip=["dataset", "series", "step", alt.Tooltip("value", format=".4g", title="loss")],
        )
    )
    return _facets(chart.properties(width=260, height=200))


def reliability(tables: Tables) -> alt.FacetChart | None:
    """Share of foreground against mean predicted probability in ten bins; the size of a point is its count of pixels."""
    rows = tables.calibration
    if rows.empty:
        return None
    rows = rows.assign(p=rows["confidence"] * rows["count"], y=rows["accuracy"] * rows["count"])
    rows = (
        rows.groupby(["dataset", "experiment", "network", "variant", "bin"], sort=False)[["count", "p", "y"]]
        .sum()
        .reset_index()
    )
    rows = rows[rows["count"] > 0]
    rows = rows.assign(series=t._series(rows), confidence=rows["p"] / rows["count"], accuracy=rows["y"] / rows["count"])
    colour = alt.Color("series:N", title=None, scale=_scale(rows["series"]))
    base = alt.Chart(rows).encode(
        x=alt.X("confidence:Q", title="predicted probability", scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("accuracy:Q", title="share of foreground", scale=alt.Scale(domain=[0, 1])),
        color=colour,
    )
    lines = base.mark_line(strokeWidth=1.2).encode(strokeDash=alt.StrokeDash("series:N", title=None))
    points = base.mark_point(filled=True).encode(
        size=alt.Size("count:Q", title="pixels", scale=alt.Scale(type="log", range=[10, 160])),
        shape=alt.Shape("series:N", title=None),
        tooltip=[
            "dataset",
            "series",
            "bin",
            alt.Tooltip("count", format=","),
            alt.Tooltip("confidence", format=".3f"),
            alt.Tooltip("accuracy", format=".3f"),
        ],
    )
    ideal = (
        alt.Chart(rows)
        .transform_aggregate(groupby=["dataset"])
        .transform_calculate(zero="0", one="1")
        .mark_rule(color="#888", strokeDash=[2, 2])
        .encode(x=alt.X("zero:Q"), x2="one:Q", y=alt.Y("zero:Q"), y2="one:Q")
    )
    return _facets(alt.layer(ideal, lines, points).properties(width=240, height=240))


def _panels(curves: pd.DataFrame, title: str, scale: alt.Scale | None = None) -> alt.FacetChart | None:
    if curves.empty:
        return None
    line = _line(curves, title, scale).encode(
        color=alt.Color("series:N", title=None, scale=_scale(curves["series"])),
        strokeDash=alt.StrokeDash("series:N", title=None),
    )
    if curves["seeds"].max() == 1:
        return _facets(line.properties(width=260, height=220))
    band = alt.Chart(curves).mark_area(opacity=0.2).encode(x="t:Q", y="low:Q", y2="high:Q", color="series:N")
    return _facets(alt.layer(band, line).properties(width=260, height=220))


def _line(curves: pd.DataFrame, title: str, scale: alt.Scale | None = None) -> alt.Chart:
    return (
        alt.Chart(curves)
        .mark_line()
        .encode(
            x=alt.X("t:Q", title=T_AXIS, scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("mean:Q", title=title, scale=scale or alt.Scale(zero=True)),
            tooltip=[
                "dataset",
                "series",
                alt.Tooltip("t", format=".3f"),
                alt.Tooltip("step:Q", title="step of 1000"),
                alt.Tooltip("log_snr", format=".2f", title="log-SNR"),
                alt.Tooltip("mean", format=".4g", title=title),
                alt.Tooltip("low", format=".4g"),
                alt.Tooltip("high", format=".4g"),
                alt.Tooltip("seeds"),
                alt.Tooltip("share", format=".0%", title="of training"),
            ],
        )
    )


def _facets(chart) -> alt.FacetChart:
    return chart.facet(facet=alt.Facet("dataset:N", title=None), columns=3).resolve_scale(x="shared", y="shared")


def _scale(values: pd.Series) -> alt.Scale:
    """The same colour for the same name wherever it stands: names are numbered in their fixed order."""
    names = sorted(set(values))
    return alt.Scale(domain=names, range=[COLOURS[i % len(COLOURS)] for i in range(len(names))])
