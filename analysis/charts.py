"""The study's exhibits as Altair charts, with the axes of the paper's figures. Each takes Tables; None if it has no data."""

import altair as alt
import pandas as pd

from analysis import tables as t
from analysis.tables import Tables
from diffseg.fingerprint import ERRORS

# Okabe & Ito's palette, which colour-blind readers can tell apart, without black and yellow
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 1], [1, 1]]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
T_AXIS = "t (0 clean, 1 noise)"
alt.data_transformers.disable_max_rows()


def mask_errors(tables: Tables) -> alt.FacetChart | None:
    """Mask error over t, E2 against E3, a panel for each data set (Fig. 3 left)."""
    return _panels(
        tables, t.errors(tables, ["e2", "e3"], "mask_error"), "mean squared mask error", alt.Scale(zero=True)
    )


def losses(tables: Tables) -> alt.FacetChart | None:
    """Loss over t of E2 with the ε-target and of E4, at the first snapshot (Fig. 3 middle and right)."""
    trials = tables.trials
    epsilon = set(trials.loc[trials["config_diffusion_target"] == "epsilon", "trial"])
    kept = tables.timesteps[tables.timesteps["trial"].isin(epsilon)]
    curves = t.errors(Tables(**{**vars(tables), "timesteps": kept}), ["e2", "e4"], "loss", snapshot="first")
    return _panels(tables, curves, "ε-loss (log scale)", alt.Scale(type="log"))


def fingerprints(tables: Tables) -> alt.LayerChart | None:
    """E3's mask error over t for every data set, with the point at half its maximum (Fig. 4)."""
    curves = t.errors(tables, ["e3"], "mask_error")
    if curves.empty:
        return None
    look = _look(curves["dataset"], curves["dataset"], "dataset")
    lines = _line(curves, "mean squared mask error", alt.Scale(zero=True)).encode(
        color=look["color"], strokeDash=look["strokeDash"], detail=["network:N", "variant:N"]
    )
    tooltip = ["dataset", alt.Tooltip("t", format=".3f", title="t at half maximum"), alt.Tooltip("mean", format=".3f")]
    points = alt.Chart(t.half_maxima(curves)).mark_point(filled=True, size=110, opacity=1)
    points = points.encode(x="t:Q", y="mean:Q", color=look["color"], shape=look["shape"], tooltip=tooltip)
    return (lines + points).properties(width=560, height=300)


def fingerprint_weights(tables: Tables) -> alt.FacetChart | None:
    """What each kind of fingerprint stresses, over the log-SNR, a panel for each data set."""
    frames = [
        pd.DataFrame({"dataset": found["dataset"], "series": found["series"], "kind": one.kind, "t": one.t}).assign(
            log_snr=one.log_snr, weight=one.weight, derivative=one.derivative, error=one.error_smooth
        )
        for found in t.fingerprints(tables)
        for one in [found["fingerprint"]]
    ]
    if not frames:
        return None
    rows = pd.concat(frames)
    look = _look(pd.Series(list(ERRORS)), rows["kind"], "kind")
    lines = alt.Chart(rows).mark_line()
    lines = lines.encode(
        x=alt.X("log_snr:Q", title="log-SNR (noise at the left)"),
        y=alt.Y("weight:Q", title="weight, as a share of its greatest"),
        color=look["color"],
        strokeDash=look["strokeDash"],
        detail="series:N",
        tooltip=[
            "dataset",
            "series",
            "kind",
            alt.Tooltip("t", format=".3f"),
            alt.Tooltip("log_snr", format=".2f", title="log-SNR"),
            alt.Tooltip("error", format=".3f", title="error, smooth"),
            alt.Tooltip("derivative", format=".3f", title="derivative by −log-SNR"),
            alt.Tooltip("weight", format=".3f"),
        ],
    )
    return _facets(lines.properties(width=260, height=200))


def effective_weights(tables: Tables) -> alt.FacetChart | None:
    """The effective weight W(λ) of the noise levels in E2's training, log scale, each curve's greatest 1, over the log-SNR."""
    rows = tables.timesteps[(tables.timesteps["experiment"] == "e2") & (tables.timesteps["weight"] > 0)]
    rows = rows[rows["weight"] < float("inf")]  # a schedule's end, where it stands still
    curves = t.errors(Tables(**{**vars(tables), "timesteps": rows}), ["e2"], "weight")
    if curves.empty:
        return None
    curves["share"] = curves["mean"] / curves.groupby(t.GROUP)["mean"].transform("max")
    look = _look(tables.trials["series"], curves["series"], "series")
    lines = alt.Chart(curves).mark_line()
    lines = lines.encode(
        x=alt.X("log_snr:Q", title="log-SNR (noise at the left)"),
        y=alt.Y("share:Q", title="effective weight (log scale)", scale=alt.Scale(type="log")),
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
    return _facets(lines.properties(width=260, height=200))


def learning_curves(tables: Tables) -> alt.FacetChart | None:
    """Training loss over the steps, log scale, a panel for each data set."""
    rows = tables.curves[tables.curves["metric"] == "loss"]
    if rows.empty:
        return None
    rows = rows.groupby([*t.GROUP, "step"], sort=False)["value"].mean().reset_index()
    look = _look(tables.trials["series"], rows["series"], "series")
    scale = "log" if (rows["value"] > 0).all() else "symlog"  # a learnt weighting makes the loss a logarithm
    lines = alt.Chart(rows).mark_line(strokeWidth=1.5)
    lines = lines.encode(
        x=alt.X("step:Q", title="step"),
        y=alt.Y("value:Q", title=f"training loss ({scale} scale)", scale=alt.Scale(type=scale)),
        color=look["color"],
        strokeDash=look["strokeDash"],
        tooltip=["dataset", "series", "step", alt.Tooltip("value", format=".4g", title="loss")],
    )
    return _facets(lines.properties(width=260, height=200))


def reliability(tables: Tables) -> alt.FacetChart | None:
    """Share of foreground against mean predicted probability in ten bins; the size of a point is its count of pixels."""
    rows = tables.calibration
    if rows.empty:
        return None
    rows = rows.assign(p=rows["confidence"] * rows["count"], y=rows["accuracy"] * rows["count"])
    rows = rows.groupby([*t.GROUP, "bin"], sort=False)[["count", "p", "y"]].sum().reset_index()
    rows = rows[rows["count"] > 0]
    rows = rows.assign(confidence=rows["p"] / rows["count"], accuracy=rows["y"] / rows["count"])
    look = _look(tables.trials["series"], rows["series"], "series")
    base = alt.Chart(rows).encode(
        x=alt.X("confidence:Q", title="predicted probability", scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("accuracy:Q", title="share of foreground", scale=alt.Scale(domain=[0, 1])),
        color=look["color"],
    )
    shown = [
        alt.Tooltip(name, format=form) for name, form in (("count", ","), ("confidence", ".3f"), ("accuracy", ".3f"))
    ]
    points = base.mark_point(filled=True, opacity=0.9).encode(
        size=alt.Size("count:Q", title="pixels", scale=alt.Scale(type="log", range=[10, 160]), legend=None),
        shape=look["shape"],
        tooltip=["dataset", "series", "bin", *shown],
    )
    ideal = alt.Chart(rows).transform_aggregate(groupby=["dataset"]).transform_calculate(zero="0", one="1")
    ideal = ideal.mark_rule(color="#888", strokeDash=[2, 2]).encode(x="zero:Q", x2="one:Q", y="zero:Q", y2="one:Q")
    return _facets(alt.layer(ideal, base.mark_line(strokeWidth=1.2), points).properties(width=240, height=240))


def _panels(tables: Tables, curves: pd.DataFrame, title: str, scale: alt.Scale) -> alt.FacetChart | None:
    """Curves over t, a panel for each data set; with several seeds their mean, and a band from the least to the greatest."""
    if curves.empty:
        return None
    look = _look(tables.trials["series"], curves["series"], "series")
    chart = _line(curves, title, scale).encode(color=look["color"], strokeDash=look["strokeDash"])
    if curves["seeds"].max() > 1:
        band = alt.Chart(curves).mark_area(opacity=0.2).encode(x="t:Q", y="low:Q", y2="high:Q", color=look["color"])
        chart = alt.layer(band, chart)
    return _facets(chart.properties(width=260, height=220))


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
    return alt.Chart(curves).mark_line().encode(x=x, y=alt.Y("mean:Q", title=title, scale=scale), tooltip=tooltip)


def _facets(chart) -> alt.FacetChart:
    return chart.facet(facet=alt.Facet("dataset:N", title=None), columns=3).resolve_scale(x="shared", y="shared")


def _look(every: pd.Series, shown: pd.Series, field: str) -> dict:
    """Colour, dash and shape by name, in one legend: a name looks the same in every chart, and colour is never alone."""
    names, present = sorted(set(every)), sorted(set(shown))
    places = [names.index(name) for name in present]

    def channel(kind, values: list, shifted: int):
        """After one round of colours, dashes and shapes are shifted, so that the combinations differ."""
        chosen = [values[(place + shifted * (place // len(values))) % len(values)] for place in places]
        return kind(f"{field}:N", title=None, scale=alt.Scale(domain=present, range=chosen))

    return {
        "color": channel(alt.Color, COLOURS, shifted=0),
        "strokeDash": channel(alt.StrokeDash, DASHES, shifted=1),
        "shape": channel(alt.Shape, SHAPES, shifted=1),
    }
