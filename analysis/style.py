"""The look of all charts: colours, dashes and shapes of series, panels by data set, and thinning of long curves."""

from typing import Any

import altair as alt
import pandas as pd

from analysis.frames import GROUP
from analysis.tables import Tables
from diffseg.config import NETWORKS

# The palette of Okabe & Ito, which colour-blind readers can distinguish, without black and yellow
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
# After Tol's muted palette: data sets, which must not look like networks, seen on light and on dark ground
DATA_COLOURS = ["#CC6677", "#44AA99", "#8E8E33", "#AA4499", "#7777CC", "#997755"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 1], [1, 1], [10, 4], [3, 1, 1, 1], [1, 4]]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
DASH_LEGEND = alt.Legend(symbolSize=900)  # long enough to tell dashes apart
FEW_TICKS = alt.Axis(tickCount=5)  # a log scale has ten for each decade otherwise
POINTS = 100  # of a line, about
WIDTHS = {1: 520, 2: 390}  # px of a panel, by the number of panels side by side
NARROW = 250  # px of a panel beside more than one other
alt.data_transformers.disable_max_rows()


def encode_series(tables: Tables, shown: pd.Series) -> dict[str, Any]:
    """Return the encodings `color`, `strokeDash` and `shape` of the series that are shown, in one legend.

    Colour is never the only difference. With several networks, a network has the same colour in all charts, by the order of
    registration (the first one's if it is not registered), and its series differ in dash and shape. With one network, the
    series have the colours.
    """
    pairs = tables.trials[["network", "series"]].drop_duplicates().sort_values(["network", "series"])
    if pairs["network"].nunique() > 1:
        known = list(NETWORKS)
        places = [known.index(name) if name in known else 0 for name in pairs["network"]]
        forms = list(pairs.groupby("network").cumcount())
    else:  # after one round of colours, dashes and shapes are shifted, so that the combinations differ
        places = list(range(len(pairs)))
        forms = [place + place // len(COLOURS) for place in places]
    chosen = {
        series: (COLOURS[place % len(COLOURS)], DASHES[form % len(DASHES)], SHAPES[form % len(SHAPES)])
        for series, place, form in zip(pairs["series"], places, forms, strict=True)
    }
    present = sorted(set(shown))
    kinds = {"color": alt.Color, "strokeDash": alt.StrokeDash, "shape": alt.Shape}
    return {
        name: kind(
            "series:N",
            title=None,
            scale=alt.Scale(domain=present, range=[chosen[each][k] for each in present]),
            legend=DASH_LEGEND if name == "strokeDash" else alt.Undefined,
        )
        for k, (name, kind) in enumerate(kinds.items())
    }


def facet_by_dataset(chart: Any, rows: pd.DataFrame, height: int = 220) -> alt.FacetChart:
    """Return the chart with a panel for each data set, up to three in a row, on the same axes."""
    panels = chart.properties(width=WIDTHS.get(rows["dataset"].nunique(), NARROW), height=height)
    panels = panels.facet(facet=alt.Facet("dataset:N", title=None), columns=3)
    faceted: alt.FacetChart = panels.resolve_scale(x="shared", y="shared")
    return faceted


def facet_by_search(chart: Any, rows: pd.DataFrame, height: int) -> alt.FacetChart:
    """Return the chart with a panel for each search, up to three in a row."""
    panels = chart.properties(width=WIDTHS.get(rows["search"].nunique(), NARROW), height=height)
    faceted: alt.FacetChart = panels.facet(facet=alt.Facet("search:N", title=None), columns=3)
    return faceted


def encode_values(name: str, domain: list[str], present: pd.Series) -> dict[str, Any]:
    """Return the encodings `color`, `strokeDash` and `shape` of a column, fixed for each value of the domain.

    Only values that are present are in the legend; each looks the same whatever the others are.
    """
    kept = [value for value in domain if value in set(present)]
    kinds: dict[str, tuple[Any, list[Any]]] = {
        "color": (alt.Color, COLOURS),
        "strokeDash": (alt.StrokeDash, DASHES),
        "shape": (alt.Shape, SHAPES),
    }
    return {
        key: kind(
            f"{name}:N",
            title=None,
            scale=alt.Scale(domain=kept, range=[looks[domain.index(value) % len(looks)] for value in kept]),
            legend=DASH_LEGEND if key == "strokeDash" else alt.Undefined,
        )
        for key, (kind, looks) in kinds.items()
    }


def thin(rows: pd.DataFrame, x: str, by: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return about POINTS rows of each series, evenly spaced, with its first and its last: more cannot be seen.

    by: Further columns in which lines differ.
    """
    lines = rows.groupby([*GROUP, *by])[x]
    place, size = lines.rank(method="first") - 1, lines.transform("size")
    return rows[(place % (size // POINTS).clip(lower=1) == 0) | (place == size - 1)]
