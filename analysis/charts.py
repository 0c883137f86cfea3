"""Charts of training and of curves over the noise levels, with the axes of the paper's figures.

Each function takes Tables and returns None if it has no data. A chart cannot show many variants: give it `tables.shown()`.
"""

from typing import Any

import altair as alt
import pandas as pd
import pyarrow.dataset as ds

from analysis.frames import GROUP
from analysis.noise_levels import average_over_seeds, epsilon_rows, errors_over_t, find_half_losses
from analysis.style import (
    COLOURS,
    DASH_LEGEND,
    DASHES,
    DATA_COLOURS,
    FEW_TICKS,
    SHAPES,
    encode_series,
    facet_by_dataset,
    thin,
)
from analysis.tables import Tables
from diffseg.fingerprint.curve import ERRORS

T_AXIS = "t (0 clean, 1 noise)"
LOG_SNR_AXIS = "log-SNR (noise at the left)"


def mask_errors(tables: Tables) -> alt.FacetChart | None:
    """Draw the mask error over t, E2 against E3, a panel for each data set (Fig. 3 left)."""
    curves = errors_over_t(tables, ["e2", "e3"], "mask_error")
    return _curves_over_t(tables, curves, "mean squared mask error", alt.Scale(zero=True))


def losses(tables: Tables) -> alt.FacetChart | None:
    """Draw the loss over t of E2 with the ε-target and of E4, at the first snapshot (Fig. 3 middle and right)."""
    curves = average_over_seeds(epsilon_rows(tables), "loss", snapshot="first")
    return _curves_over_t(tables, curves, "ε-loss (log scale)", alt.Scale(type="log", nice=False))


def fingerprints(tables: Tables) -> alt.VConcatChart | None:
    """Draw E3's mask error over t, its derivative by the log-SNR, and the weight made of it (Fig. 4).

    A line is a data set's mean over networks, marked where half is lost; each of several networks is dotted.
    """
    curves = tables.fingerprints()
    if curves.empty:
        return None
    rows = _with_means_over_networks(thin(curves[curves["kind"] == "mask-error"], "t"))
    names = sorted(set(rows["dataset"]))
    colours = [DATA_COLOURS[place % len(DATA_COLOURS)] for place in range(len(names))]
    colour = alt.Color("dataset:N", title=None, scale=alt.Scale(domain=names, range=colours))
    halves = find_half_losses(tables.measured_fingerprints).groupby("dataset", sort=False)[["t", "error"]].mean()
    points = alt.Chart(halves.reset_index()).mark_point(filled=True, size=110, opacity=1, tooltip=True)
    shape = alt.Shape("dataset:N", title=None, scale=alt.Scale(domain=names, range=SHAPES[: len(names)]))
    points = points.encode(x="t:Q", y="error:Q", color=colour, shape=shape)
    errors = alt.layer(_fingerprint_panel(rows, colour, "error", "mean squared mask error", 240), points)
    return alt.vconcat(
        errors,
        _fingerprint_panel(rows, colour, "derivative", "derivative", 120),
        _fingerprint_panel(rows, colour, "weight", "weight", 120),
    )


def fingerprint_weights(tables: Tables) -> alt.FacetChart | None:
    """Draw what each kind of fingerprint stresses, over the log-SNR, a panel for each data set."""
    rows = tables.fingerprints()
    if rows.empty:
        return None
    kinds = list(ERRORS)
    scale = alt.Scale(domain=kinds, range=COLOURS[: len(kinds)])
    dashes = alt.Scale(domain=kinds, range=DASHES[: len(kinds)])
    lines = alt.Chart(rows).mark_line()
    lines = lines.encode(
        x=alt.X("log_snr:Q", title=LOG_SNR_AXIS),
        y=alt.Y("weight:Q", title="weight, as a share of its greatest"),
        color=alt.Color("kind:N", title=None, scale=scale),
        strokeDash=alt.StrokeDash("kind:N", title=None, scale=dashes, legend=DASH_LEGEND),
        detail="series:N",
        tooltip=[
            "dataset",
            "series",
            "kind",
            alt.Tooltip("t", format=".3f"),
            alt.Tooltip("log_snr", format=".2f", title="log-SNR"),
            alt.Tooltip("error_smooth", format=".3f", title="error, smooth"),
            alt.Tooltip("derivative", format=".3f", title="derivative by −log-SNR"),
            alt.Tooltip("weight", format=".3f"),
        ],
    )
    return facet_by_dataset(lines.properties(width=260, height=200), rows)


def effective_weights(tables: Tables) -> alt.FacetChart | None:
    """Draw the effective weight W(λ) of the noise levels in E2's training over the log-SNR, each curve's greatest 1, log scale."""
    rows = tables.timesteps[(tables.timesteps["experiment"] == "e2") & (tables.timesteps["weight"] > 0)]
    rows = rows[rows["weight"] < float("inf")]  # the end of a schedule whose log-SNR does not move there
    curves = average_over_seeds(rows, "weight")
    if curves.empty:
        return None
    curves["share"] = curves["mean"] / curves.groupby(GROUP)["mean"].transform("max")
    curves = thin(curves, "t")
    look = encode_series(tables, curves["series"])
    lines = alt.Chart(curves).mark_line()
    lines = lines.encode(
        x=alt.X("log_snr:Q", title=LOG_SNR_AXIS),
        y=alt.Y(
            "share:Q", title="effective weight (log scale)", scale=alt.Scale(type="log", nice=False), axis=FEW_TICKS
        ),
        color=look["color"],
        strokeDash=look["strokeDash"],
        tooltip=[
            "dataset",
            "series",
            alt.Tooltip("t", format=".3f"),
            alt.Tooltip("log_snr", format=".2f", title="log-SNR"),
            alt.Tooltip("mean", format=".3g", title="effective weight"),
        ],
    )
    return facet_by_dataset(lines, rows)


def learning_curves(tables: Tables) -> alt.FacetChart | None:
    """Draw the training loss over the steps, log scale, a panel for each data set."""
    rows = _mean_curves(tables, "loss")
    if rows.empty:
        return None
    kind: Any = "log" if (rows["value"] > 0).all() else "symlog"  # a learnt weighting makes the loss a logarithm
    return _over_steps(tables, rows, f"training loss ({kind} scale)", alt.Scale(type=kind, nice=False))


def validation_curves(tables: Tables) -> alt.FacetChart | None:
    """Draw the IoU that training.evaluations measured over the steps, a panel for each data set."""
    rows = _mean_curves(tables, "iou")
    if rows.empty or rows["step"].nunique() < 2:
        return None
    return _over_steps(tables, rows, "IoU while training", alt.Scale(zero=False))


def _mean_curves(tables: Tables, metric: str) -> pd.DataFrame:
    """Return the mean over seeds of a learning curve: columns of GROUP, step, value."""
    rows = tables.frame("curves", ["step", "metric", "value"], ds.field("metric") == metric)
    return thin(rows.groupby([*GROUP, "step"], sort=False)["value"].mean().reset_index(), "step") if len(rows) else rows


def _over_steps(tables: Tables, rows: pd.DataFrame, title: str, scale: alt.Scale) -> alt.FacetChart:
    """Draw learning curves, a panel for each data set."""
    look = encode_series(tables, rows["series"])
    lines = alt.Chart(rows).mark_line(strokeWidth=1.5)
    lines = lines.encode(
        x=alt.X("step:Q", title="step", axis=alt.Axis(tickCount=5)),
        y=alt.Y("value:Q", title=title, scale=scale, axis=FEW_TICKS),
        color=look["color"],
        strokeDash=look["strokeDash"],
        tooltip=["dataset", "series", "step", alt.Tooltip("value", format=".4g", title=title)],
    )
    return facet_by_dataset(lines, rows)


def _curves_over_t(tables: Tables, curves: pd.DataFrame, title: str, scale: alt.Scale) -> alt.FacetChart | None:
    """Draw curves over t, a panel for each data set: the mean over seeds, and a band from the least to the greatest."""
    if curves.empty:
        return None
    curves = thin(curves, "t")
    look = encode_series(tables, curves["series"])
    chart = _line(curves, title, scale).encode(color=look["color"], strokeDash=look["strokeDash"])
    if curves["seeds"].max() > 1:
        band = alt.Chart(curves).mark_area(opacity=0.2).encode(x="t:Q", y="low:Q", y2="high:Q", color=look["color"])
        chart = alt.layer(chart, band)  # the legend looks like the first
    return facet_by_dataset(chart, curves)


def _line(curves: pd.DataFrame, title: str, scale: alt.Scale) -> Any:
    """Draw the mean of curves over t."""
    tooltip = [
        alt.Tooltip("dataset"),
        alt.Tooltip("series"),
        alt.Tooltip("t", format=".3f"),
        alt.Tooltip("step", title="step of 1000"),
        alt.Tooltip("log_snr", format=".2f", title="log-SNR"),
        alt.Tooltip("mean", format=".4g", title=title),
        alt.Tooltip("low", format=".4g", title="least over seeds"),
        alt.Tooltip("high", format=".4g", title="greatest over seeds"),
        alt.Tooltip("seeds"),
        alt.Tooltip("share", format=".0%", title="of training"),
    ]
    x = alt.X("t:Q", title=T_AXIS, scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("mean:Q", title=title, scale=scale, axis=FEW_TICKS)
    return alt.Chart(curves).mark_line().encode(x=x, y=y, tooltip=tooltip)


def _with_means_over_networks(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the means of fingerprints over t, and the networks of data sets with several."""
    values = ["log_snr", "error", "derivative", "weight"]
    networks = curves.groupby(["dataset", "network", "t"], sort=False)[values].mean().reset_index()
    means = networks.groupby(["dataset", "t"], sort=False)[values].mean().reset_index()
    dotted = networks[networks.groupby("dataset")["network"].transform("nunique") > 1]
    return pd.concat([means.assign(network="mean over networks", line="mean"), dotted.assign(line="network")])


def _fingerprint_panel(rows: pd.DataFrame, colour: alt.Color, value: str, title: str, height: int) -> Any:
    """Draw one value of the fingerprints over t."""
    dash = alt.Scale(domain=["mean", "network"], range=[[1, 0], [2, 3]])
    lines = alt.Chart(rows).mark_line()
    lines = lines.encode(
        x=alt.X("t:Q", title=T_AXIS if value == "weight" else None, scale=alt.Scale(domain=[0, 1])),
        y=alt.Y(f"{value}:Q", title=title),
        color=colour,
        detail="network:N",
        strokeDash=alt.StrokeDash("line:N", legend=None, scale=dash),
        tooltip=[
            "dataset",
            "network",
            alt.Tooltip("t", format=".3f"),
            alt.Tooltip("log_snr", format=".2f", title="log-SNR"),
            alt.Tooltip(value, format=".3g"),
        ],
    )
    return lines.properties(width=560, height=height)
