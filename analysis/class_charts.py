"""Charts of single classes: their mask errors over the noise levels, and which of them are confused.

Each function takes Tables and returns None if no masks have several classes, or if none of their trials is complete.
"""

from typing import Any

import altair as alt
import pandas as pd

from analysis.class_tables import count_confusions
from analysis.noise_levels import average_over_seeds
from analysis.overlays import choose_colours
from analysis.style import DASHES, facet_by_dataset, thin
from analysis.tables import Tables
from diffseg.config.data import BACKGROUND

CELL = 46  # px of a cell of a confusion
WRITTEN = 8  # classes of a confusion up to which its cells have room for numbers


def class_errors(tables: Tables) -> alt.VConcatChart | None:
    """Draw the mask error over t of each class, of E2 and E3, as a share of the class's greatest error.

    It shows which class is decided at which noise, whatever their sizes.
    """
    rows = tables.class_timesteps
    rows = rows[rows["experiment"].isin(["e2", "e3"])].dropna(subset=["mask_error"])
    curves = average_over_seeds(rows, "mask_error", by=("class",))
    if curves.empty:
        return None
    curves["greatest"] = curves.groupby(["study", "dataset", "network", "class"])["mean"].transform("max")
    curves = thin(curves.assign(part=curves["mean"] / curves["greatest"]), "t", ("class",))
    panels = [_draw_errors(ours, tables.classes[dataset]) for dataset, ours in curves.groupby("dataset", sort=True)]
    chart: alt.VConcatChart = alt.vconcat(*panels).resolve_scale(color="independent", strokeDash="independent")
    return chart


def confusion(tables: Tables) -> alt.ConcatChart | None:
    """Draw how the pixels of each true class were predicted, as shares of the class, a panel for each data set and series."""
    rows = count_confusions(tables)
    if rows.empty:
        return None
    groups = rows.groupby(["dataset", "series"], sort=True)
    panels = [_draw_confusion(ours, [BACKGROUND, *tables.classes[names[0]]], names) for names, ours in groups]
    return alt.concat(*panels, columns=2)


def _draw_errors(curves: pd.DataFrame, classes: list[str]) -> alt.FacetChart:
    """Draw the curves of one data set: a colour for each class, a dash for each series."""
    colours = choose_colours(classes)
    series = sorted(set(curves["series"]))
    lines = alt.Chart(curves).mark_line()
    lines = lines.encode(
        x=alt.X("t:Q", title="t (0 clean, 1 noise)", scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("part:Q", title="mask error, share of its greatest"),
        color=alt.Color(
            "class:N", title=None, scale=alt.Scale(domain=list(colours), range=list(colours.values())), sort=classes
        ),
        strokeDash=alt.StrokeDash(
            "series:N",
            title=None,
            scale=alt.Scale(domain=series, range=[DASHES[k % len(DASHES)] for k in range(len(series))]),
        ),
        tooltip=[
            "dataset",
            "class",
            "series",
            alt.Tooltip("t", format=".3f"),
            alt.Tooltip("log_snr", format=".2f", title="log-SNR"),
            alt.Tooltip("part", format=".0%", title="share of its greatest"),
            alt.Tooltip("mean", format=".4g", title="mean squared mask error"),
            "seeds",
        ],
    )
    return facet_by_dataset(lines, curves)


def _draw_confusion(rows: pd.DataFrame, names: list[str], title: tuple[str, str]) -> Any:
    """Draw the confusions of one data set and series."""
    base = alt.Chart(rows).encode(
        x=alt.X(
            "predicted:N", title="predicted", sort=names, axis=alt.Axis(labelAngle=-40, labelLimit=110, grid=False)
        ),
        y=alt.Y("truth:N", title="truth", sort=names, axis=alt.Axis(labelLimit=110, grid=False)),
        tooltip=[
            "dataset",
            "series",
            "truth",
            "predicted",
            alt.Tooltip("share", format=".2%", title="share of the truth"),
            alt.Tooltip("count", format=",", title="pixels"),
        ],
    )
    scale = alt.Scale(domain=[0, 1], scheme="blues")
    layers = [base.mark_rect().encode(color=alt.Color("share:Q", title="share of the truth", scale=scale))]
    if len(names) <= WRITTEN:
        dark = alt.condition("datum.share > 0.5", alt.value("#fff"), alt.value("#222"))
        layers.append(base.mark_text(fontSize=11).encode(text=alt.Text("share:Q", format=".1%"), color=dark))
    size = {"step": CELL} if len(names) <= WRITTEN else {"step": CELL // 2}
    return alt.layer(*layers).properties(width=size, height=size, title=list(title))
