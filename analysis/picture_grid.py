"""Grids of small pictures as charts, with the legends of their colours."""

import base64
import io
import textwrap
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from analysis.overlays import COLOUR_SCALE, GREATEST

SIDE = 112  # px of a picture, at most
SHOWN = 76  # px on the page
KINDS = {"image": "image", "truth": "truth", "mean": "mean", "sd": "standard deviation"}


def draw_grid(cells: pd.DataFrame, title: str, colours: dict[str, str] | None = None) -> Any:
    """Draw pictures in a grid: a column for each kind and series, in the order of their appearance, and a row for each image.

    Where a standard deviation is shown, the scale of its colours is below.

    Args:
        cells: dataset, image, label (of its row, in lines), column and src.
        title: Above the grid.
        colours: Of classes, for the legend.
    """
    cells = cells.drop_duplicates(["image", "column"])
    columns = list(dict.fromkeys(cells["column"]))
    lines = {column: "|".join(textwrap.wrap(KINDS.get(column, column), 13)) for column in columns}
    deviations = cells["column"].str.endswith("sd").any()
    cells = cells.assign(column=cells["column"].map(lines), words=cells["column"])
    bare: dict[str, Any] = {"ticks": False, "domain": False, "grid": False, "labelExpr": "split(datum.label, '|')"}
    below = 12 * max(text.count("|") for text in lines.values())  # Vega places the first line of a label, not the last
    head = alt.Axis(orient="top", labelAngle=0, labelPadding=6 + below, labelOverlap=False, **bare)
    x = alt.X("column:N", title=None, sort=list(lines.values()), axis=head)
    lines_of_row = 1 + max(text.count("|") for text in cells["label"])
    rows = alt.Axis(labelLimit=150, labelOffset=-6 * (lines_of_row - 1), **bare)
    y = alt.Y("label:N", title=None, sort=list(dict.fromkeys(cells["label"])), axis=rows)
    pictures = alt.Chart(cells[["dataset", "image", "label", "words", "column", "src"]])
    layers = [pictures.mark_image(width=SHOWN, height=SHOWN)]
    layers[0] = layers[0].encode(x=x, y=y, url="src:N", tooltip=["image", "words"])
    if colours:
        layers.append(_class_legend(cells, colours, x, y))
    if deviations:
        layers.append(_deviation_legend(cells, x, y))
    return alt.layer(*layers).properties(
        width={"step": SHOWN + 6}, height={"step": SHOWN + 6}, title=title, view=alt.ViewConfig(stroke=None)
    )


def _deviation_legend(cells: pd.DataFrame, x: alt.X, y: alt.Y) -> Any:
    """Draw nothing but the scale of the standard deviations' colours."""
    ends = pd.DataFrame({"sd": [0.0, GREATEST]}).assign(column=cells["column"].iloc[0], label=cells["label"].iloc[0])
    scale = alt.Scale(domain=[0, GREATEST], range=COLOUR_SCALE)
    legend = alt.Legend(type="gradient", direction="horizontal", gradientLength=160, tickCount=2)
    points = alt.Chart(ends).mark_point(size=0, opacity=0, filled=True)
    return points.encode(x=x, y=y, fill=alt.Fill("sd:Q", title="standard deviation", scale=scale, legend=legend))


def _class_legend(cells: pd.DataFrame, colours: dict[str, str], x: alt.X, y: alt.Y) -> Any:
    """Draw nothing but the legend of the classes."""
    names = pd.DataFrame({"class": list(colours)})
    names = names.assign(column=cells["column"].iloc[0], label=cells["label"].iloc[0])
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    legend = alt.Legend(symbolType="square", symbolOpacity=1, symbolSize=120)
    points = alt.Chart(names).mark_point(size=0, opacity=0, filled=True)
    return points.encode(x=x, y=y, color=alt.Color("class:N", title=None, scale=scale, legend=legend))


def to_grey(values: npt.NDArray[np.float64]) -> Image.Image:
    """Return values in 0 to 1 as a picture."""
    return Image.fromarray((values * 255).round().astype(np.uint8))


def open_png(png: bytes) -> Image.Image:
    """Return the picture, shrunk to SIDE."""
    picture = Image.open(io.BytesIO(png))
    picture.thumbnail((SIDE, SIDE))
    return picture


def to_uri(picture: Image.Image) -> str:
    """Return the picture as a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
