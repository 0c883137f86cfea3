"""Charts of example pictures from the ledger: ensembles (Fig. 1), the forward process (Fig. 2), and error maps.

Each function returns None if the ledger has no examples. A row is an example. Pictures are shrunk, since pages hold many.
"""

import base64
import io
import textwrap
from collections.abc import Iterator
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image

from analysis.frames import GROUP
from analysis.tables import Tables

SIDE = 112  # px of a picture, at most
SHOWN = 76  # px on the page
ROWS = 4  # examples of a data set
TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
KINDS = {"image": "image", "truth": "truth", "mean": "mean", "sd": "standard deviation"}


def ensembles(tables: Tables) -> alt.VConcatChart | None:
    """Draw image, truth, and for E1 and E2 side by side the mean (1 is white) and the standard deviation (0.5 is white)."""
    rows = tables.examples
    if rows.empty:
        return None
    panels = []
    for dataset, ours in _select(rows).groupby("dataset", sort=True):
        given = ours[ours["kind"].isin(["image", "truth"])].drop_duplicates(["image", "kind"])
        found = ours[ours["kind"].isin(["mean", "sd"])].sort_values(["series", "kind"])
        cells = pd.concat(
            [given.assign(column=given["kind"]), found.assign(column=found["series"] + ", " + found["kind"])]
        )
        panels.append(_grid(cells.assign(src=cells["png"].map(lambda png: _uri(_open(png)))), dataset))
    return alt.vconcat(*panels)


def error_maps(tables: Tables) -> alt.VConcatChart | None:
    """Draw the ensembles' errors |mean − truth| (1 is white) beside their standard deviations (0.5 is white)."""
    panels = []
    for dataset, ours in _select(tables.examples).groupby("dataset", sort=True):
        truths = {row.image: np.asarray(_open(row.png), int) for row in ours[ours["kind"] == "truth"].itertuples()}
        found = ours[ours["kind"].isin(["mean", "sd"])].sort_values(["series", "kind"])
        cells = []
        for row in found.to_dict("records"):
            picture = _open(row["png"])
            if row["kind"] == "mean":
                picture = Image.fromarray(np.abs(np.asarray(picture, int) - truths[row["image"]]).astype(np.uint8))
            kind = {"mean": "error", "sd": "sd"}[row["kind"]]
            cells.append(row | {"column": f"{row['series']}, {kind}", "src": _uri(picture)})
        if cells:
            panels.append(_grid(pd.DataFrame(cells), dataset))
    return alt.vconcat(*panels) if panels else None


def forward_process(tables: Tables) -> alt.VConcatChart | None:
    """Draw x_t = α x0 + σ ε of an example's image and of its mask over t, at the log-SNR λ of a trial of its data set.

    α² = sigmoid(λ), σ² = sigmoid(−λ). Values are clipped to −1 and 1.
    """
    panels = []
    for dataset, ours in _select(tables.examples).groupby("dataset", sort=True):
        levels = tables.timesteps.loc[tables.timesteps["dataset"] == dataset]
        if levels.empty:
            continue
        first = levels[levels["trial"] == levels["trial"].iloc[0]].sort_values("t")
        example = ours[ours["image"] == ours["image"].min()].drop_duplicates("kind").set_index("kind")
        cells = [
            {"dataset": dataset, **cell} for kind in ("image", "truth") for cell in _add_noise(example, kind, first)
        ]
        panels.append(_grid(pd.DataFrame(cells), dataset))
    return alt.vconcat(*panels) if panels else None


def _add_noise(example: pd.DataFrame, kind: str, levels: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Yield a picture of the example at each of TIMES, with the same noise. levels: rows of Tables.timesteps of one trial."""
    clean = np.asarray(_open(example.loc[kind, "png"]), np.float64) / 127.5 - 1
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    for time in TIMES:
        level = levels.loc[(levels["t"] - time).abs().idxmin()]
        alpha, sigma = (np.sqrt(1 / (1 + np.exp(-sign * level["log_snr"]))) for sign in (1, -1))
        noisy = alpha * clean + sigma * noise if time else clean
        label = f"t = {level['t']:.2f}, log-SNR {level['log_snr']:.1f}" if time else "t = 0"
        pixels = ((noisy.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
        yield {"image": "mask" if kind == "truth" else "image", "column": label, "src": _uri(Image.fromarray(pixels))}


def _select(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the examples of the first ROWS images of every data set, by the first seed."""
    rows = rows[rows["seed"] == rows.groupby(GROUP)["seed"].transform("min")]
    return rows[rows.groupby("dataset")["image"].rank(method="dense") <= ROWS]


def _grid(cells: pd.DataFrame, title: str) -> Any:
    """Draw pictures in a grid: a column for each kind and series, in the order of their appearance, and a row for each image."""
    columns, images = list(dict.fromkeys(cells["column"])), list(dict.fromkeys(cells["image"]))
    lines = {column: "|".join(textwrap.wrap(KINDS.get(column, column), 13)) for column in columns}
    cells = cells.assign(column=cells["column"].map(lines), label=cells["column"])
    bare: dict[str, Any] = {"ticks": False, "domain": False, "grid": False}
    below = 12 * max(text.count("|") for text in lines.values())  # Vega places the first line of a label, not the last
    head = alt.Axis(
        orient="top",
        labelExpr="split(datum.label, '|')",
        labelAngle=0,
        labelPadding=6 + below,
        labelOverlap=False,
        **bare,
    )
    x = alt.X("column:N", title=None, sort=list(lines.values()), axis=head)
    y = alt.Y("image:N", title=None, sort=images, axis=alt.Axis(labelLimit=110, **bare))
    pictures = alt.Chart(cells[["dataset", "image", "label", "column", "src"]]).mark_image(width=SHOWN, height=SHOWN)
    pictures = pictures.encode(x=x, y=y, url="src:N", tooltip=["image", "label"])
    return pictures.properties(
        width={"step": SHOWN + 6}, height={"step": SHOWN + 6}, title=title, view=alt.ViewConfig(stroke=None)
    )


def _open(png: bytes) -> Image.Image:
    """Return the picture, shrunk to SIDE."""
    picture = Image.open(io.BytesIO(png))
    picture.thumbnail((SIDE, SIDE))
    return picture


def _uri(picture: Image.Image) -> str:
    """Return the picture as a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
