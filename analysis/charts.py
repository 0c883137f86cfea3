"""Curves of training as Altair charts, with the axes of the paper's figures; and how all charts look.

Each takes Tables and returns None if it has no data. Many variants make no chart: give `tables.shown()`.
"""

import altair as alt
import pandas as pd
import pyarrow.dataset as ds

from analysis import tables as t
from analysis.tables import Tables
from diffseg.fingerprint.curve import ERRORS
from diffseg.networks import registry

# Okabe & Ito's palette, which colour-blind readers can tell apart, without black and yellow
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
NETWORKS = list(registry.NETWORKS)  # in the order of registration, so that a network has the same colour everywhere
DATA_COLOURS = [
    "#882255",
    "#117733",
    "#332288",
    "#999933",
    "#AA4499",
    "#44AA99",
]  # Tol's muted: data sets, not networks
DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 1], [1, 1], [10, 4], [3, 1, 1, 1], [1, 4]]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
FEW_TICKS = alt.Axis(tickCount=5)  # a log scale has ten a decade else
T_AXIS = "t (0 clean, 1 noise)"
POINTS = 100  # of a line
WIDTHS = {1: 520, 2: 390}  # px of a panel, by how many stand side by side
alt.data_transformers.disable_max_rows()


def mask_errors(tables: Tables) -> alt.FacetChart | None:
    """Mask error over t, E2 against E3, a panel for each data set (Fig. 3 left)."""
    return _panels(
        tables, t.errors(tables, ["e2", "e3"], "mask_error"), "mean squared mask error", alt.Scale(zero=True)
    )


def losses(tables: Tables) -> alt.FacetChart | None:
    """Loss over t of E2 with the ε-target and of E4, at the first snapshot (Fig. 3 middle and right)."""
    curves = epsilon_losses(tables)
    return _panels(tables, curves, "ε-loss (log scale)", alt.Scale(type="log", nice=False))


def epsilon_losses(tables: Tables) -> pd.DataFrame:
    """Mean squared error of ε over t at the first snapshot: E2 with the ε-target, and E4. Columns of tables.over_t."""
    return t.over_t(epsilon_rows(tables), "loss", snapshot="first")


def epsilon_rows(tables: Tables) -> pd.DataFrame:
    """The rows of `timesteps` whose loss is the squared error of ε: of E2 with the ε-target, and of E4."""
    trials = tables.trials[tables.trials["experiment"].isin(["e2", "e4"])]
    epsilon = trials.loc[trials["config_diffusion_target"] == "epsilon", ["study", "trial"]]
    return tables.timesteps.merge(epsilon, on=["study", "trial"]).dropna(subset=["loss"])


def fingerprints(tables: Tables) -> alt.VConcatChart | None:
    """E3's mask error over t, its derivative by the log-SNR, and the weight made of it (Fig. 4): of every data set the mean
    over networks as a line, marked at half of its maximum, and each network dotted."""
    curves = t.fingerprints(tables)
    if curves.empty:
        return None
    curves = thinned(curves[curves["kind"] == "mask-error"], "t")
    values = ["log_snr", "error", "derivative", "weight"]
    networks = curves.groupby(["dataset", "network", "t"], sort=False)[values].mean().reset_index()
    means = networks.groupby(["dataset", "t"], sort=False)[values].mean().reset_index()
    dotted = networks[networks.groupby("dataset")["network"].transform("nunique") > 1]
    rows = pd.concat([means.assign(network="mean over networks", line="mean"), dotted.assign(line="network")])
    names = sorted(set(rows["dataset"]))
    colours = [DATA_COLOURS[place % len(DATA_COLOURS)] for place in range(len(names))]
    colour = alt.Color("dataset:N", title=None, scale=alt.Scale(domain=names, range=colours))
    halves = t.half_maxima(means.assign(study="", network="", series="", mean=means["error"]))[["dataset", "t", "mean"]]

    def panel(value: str, title: str, height: int):
        lines = (
            alt.Chart(rows)
            .mark_line()
            .encode(
                x=alt.X("t:Q", title=T_AXIS if value == "weight" else None, scale=alt.Scale(domain=[0, 1])),
                y=alt.Y(f"{value}:Q", title=title),
                color=colour,
                detail="network:N",
                strokeDash=alt.StrokeDash(
                    "line:N", legend=None, scale=alt.Scale(domain=["mean", "network"], range=[[1, 0], [2, 3]])
                ),
                tooltip=[
                    "dataset",
                    "network",
                    alt.Tooltip("t", format=".3f"),
                    alt.Tooltip("log_snr", format=".2f", title="log-SNR"),
                    alt.Tooltip(value, format=".3g"),
                ],
            )
        )
        return lines.properties(width=560, height=height)

    points = alt.Chart(halves).mark_point(filled=True, size=110, opacity=1, tooltip=True)
    shape = alt.Shape("dataset:N", title=None, scale=alt.Scale(domain=names, range=SHAPES[: len(names)]))
    points = points.encode(x="t:Q", y="mean:Q", color=colour, shape=shape)
    errors = alt.layer(panel("error", "mean squared mask error", 240), points)
    return alt.vconcat(errors, panel("derivative", "derivative by −log-SNR", 120), panel("weight", "weight", 120))


def fingerprint_weights(tables: Tables) -> alt.FacetChart | None:
    """What each kind of fingerprint stresses, over the log-SNR, a panel for each data set."""
    rows = t.fingerprints(tables)
    if rows.empty:
        return None
    kinds = list(ERRORS)
    scale = alt.Scale(domain=kinds, range=COLOURS[: len(kinds)])
    dashes = alt.Scale(domain=kinds, range=DASHES[: len(kinds)])
    lines = alt.Chart(rows).mark_line()
    lines = lines.encode(
        x=alt.X("log_snr:Q", title="log-SNR (noise at the left)"),
        y=alt.Y("weight:Q", title="weight, as a share of its greatest"),
        color=alt.Color("kind:N", title=None, scale=scale),
        strokeDash=alt.StrokeDash("kind:N", title=None, scale=dashes),
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
    return facets(lines.properties(width=260, height=200), rows)


def effective_weights(tables: Tables) -> alt.FacetChart | None:
    """The effective weight W(λ) of the noise levels in E2's training, log scale, each curve's greatest 1, over the log-SNR."""
    rows = tables.timesteps[(tables.timesteps["experiment"] == "e2") & (tables.timesteps["weight"] > 0)]
    rows = rows[rows["weight"] < float("inf")]  # a schedule's end, where it stands still
    curves = t.over_t(rows, "weight")
    if curves.empty:
        return None
    curves["share"] = curves["mean"] / curves.groupby(t.GROUP)["mean"].transform("max")
    curves = thinned(curves, "t")
    look = looks(tables, curves["series"])
    lines = alt.Chart(curves).mark_line()
    lines = lines.encode(
        x=alt.X("log_snr:Q", title="log-SNR (noise at the left)"),
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
    return facets(lines, rows)


def learning_curves(tables: Tables) -> alt.FacetChart | None:
    """Training loss over the steps, log scale, a panel for each data set."""
    rows = tables.frame("curves", ["step", "metric", "value"], ds.field("metric") == "loss")
    if rows.empty:
        return None
    rows = thinned(rows.groupby([*t.GROUP, "step"], sort=False)["value"].mean().reset_index(), "step")
    look = looks(tables, rows["series"])
    scale = "log" if (rows["value"] > 0).all() else "symlog"  # a learnt weighting makes the loss a logarithm
    lines = alt.Chart(rows).mark_line(strokeWidth=1.5)
    lines = lines.encode(
        x=alt.X("step:Q", title="step"),
        y=alt.Y(
            "value:Q", title=f"training loss ({scale} scale)", scale=alt.Scale(type=scale, nice=False), axis=FEW_TICKS
        ),
        color=look["color"],
        strokeDash=look["strokeDash"],
        tooltip=["dataset", "series", "step", alt.Tooltip("value", format=".4g", title="loss")],
    )
    return facets(lines, rows)


def _panels(tables: Tables, curves: pd.DataFrame, title: str, scale: alt.Scale) -> alt.FacetChart | None:
    """Curves over t, a panel for each data set; with several seeds their mean, and a band from the least to the greatest."""
    if curves.empty:
        return None
    curves = thinned(curves, "t")
    look = looks(tables, curves["series"])
    chart = _line(curves, title, scale).encode(color=look["color"], strokeDash=look["strokeDash"])
    if curves["seeds"].max() > 1:
        band = alt.Chart(curves).mark_area(opacity=0.2).encode(x="t:Q", y="low:Q", y2="high:Q", color=look["color"])
        chart = alt.layer(chart, band)  # the legend looks like the first
    return facets(chart, curves)


def _line(curves: pd.DataFrame, title: str, scale: alt.Scale) -> alt.Chart:
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
    return (
        alt.Chart(curves)
        .mark_line()
        .encode(x=x, y=alt.Y("mean:Q", title=title, scale=scale, axis=FEW_TICKS), tooltip=tooltip)
    )


def facets(chart, rows: pd.DataFrame, height: int = 220) -> alt.FacetChart:
    """A panel for each data set, as wide as so many can be."""
    panels = chart.properties(width=WIDTHS.get(rows["dataset"].nunique(), 250), height=height)
    return panels.facet(facet=alt.Facet("dataset:N", title=None), columns=3).resolve_scale(x="shared", y="shared")


def thinned(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """At most about POINTS rows of each series, evenly, with its first and its last: more cannot be seen."""
    place, size = (rows.groupby(t.GROUP)[x].rank(method="first") - 1, rows.groupby(t.GROUP)[x].transform("size"))
    return rows[(place % (size // POINTS).clip(lower=1) == 0) | (place == size - 1)]


def looks(tables: Tables, shown: pd.Series) -> dict:
    """Colour, dash and shape of the series that are shown, in one legend; colour is never alone.

    A network has the same colour everywhere, and its series differ in dash and shape; in studies of one network, which
    have nothing to tell by that, the series have colours.
    """
    pairs = tables.trials[["network", "series"]].drop_duplicates().sort_values(["network", "series"])
    if pairs["network"].nunique() > 1:
        places = [NETWORKS.index(name) if name in NETWORKS else 0 for name in pairs["network"]]
        forms = pairs.groupby("network").cumcount()
    else:  # after one round of colours, dashes and shapes are shifted, so that the combinations differ
        places = range(len(pairs))
        forms = [place + place // len(COLOURS) for place in places]
    chosen = {
        series: (COLOURS[place % len(COLOURS)], DASHES[form % len(DASHES)], SHAPES[form % len(SHAPES)])
        for series, place, form in zip(pairs["series"], places, forms, strict=True)
    }
    present = sorted(set(shown))
    kinds = {"color": alt.Color, "strokeDash": alt.StrokeDash, "shape": alt.Shape}
    return {
        name: kind("series:N", title=None, scale=alt.Scale(domain=present, range=[chosen[each][k] for each in present]))
        for k, (name, kind) in enumerate(kinds.items())
    }
