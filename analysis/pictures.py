"""The paper's pictures from the examples in the ledger: ensembles (Fig. 1), and the forward process (Fig. 2); and error maps.

Charts of images, a row an example; None if the ledger holds none. Pictures are made smaller, since pages hold many.
"""

import base64
import io
import textwrap

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image

from analysis.tables import GROUP, Tables

SIDE = 112  # px of a picture, at most
SHOWN = 76  # px on the page
ROWS = 4  # examples of a data set
TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
KINDS = {"image": "image", "truth": "truth", "mean": "mean", "sd": "standard deviation"}


def ensembles(tables: Tables) -> alt.VConcatChart | None:
    """Image, truth, and of E1 and of E2 side by side the mean (1 is white) and the standard deviation (0.5 is white)."""
    rows = tables.examples
    if rows.empty:
        return None
    panels = []
    for dataset, ours in _some(rows).groupby("dataset", sort=True):
        given = ours[ours["kind"].isin(["image", "truth"])].drop_duplicates(["image", "kind"])
        found = ours[ours["kind"].isin(["mean", "sd"])].sort_values(["series", "kind"])
        cells = pd.concat(
            [given.assign(column=given["kind"]), found.assign(column=found["series"] + ", " + found["kind"])]
        )
        panels.append(_grid(cells.assign(src=cells["png"].map(_small)), dataset))
    return alt.vconcat(*panels)


def error_maps(tables: Tables) -> alt.VConcatChart | None:
    """Where an ensemble errs and where it doubts: |mean − truth| (1 is white) beside the standard deviation (0.5 is white)."""
    panels = []
    for dataset, ours in _some(tables.examples).groupby("dataset", sort=True):
        truths = {row.image: np.asarray(_opened(row.png), int) for row in ours[ours["kind"] == "truth"].itertuples()}
        found = ours[ours["kind"].isin(["mean", "sd"])].sort_values(["series", "kind"])
        cells = []
        for row in found.to_dict("records"):
            picture = _opened(row["png"])
            if row["kind"] == "mean":
                picture = Image.fromarray(np.abs(np.asarray(picture, int) - truths[row["image"]]).astype(np.uint8))
            kind = {"mean": "error", "sd": "sd"}[row["kind"]]
            cells.append(row | {"column": f"{row['series']}, {kind}", "src": _uri(picture)})
        if cells:
            panels.append(_grid(pd.DataFrame(cells), dataset))
    return alt.vconcat(*panels) if panels else None


def forward_process(tables: Tables) -> alt.VConcatChart | None:
    """x_t = α x0 + σ ε of an example's image and of its mask over t, by the log-SNR that a trial of its data set had.

    α² = sigmoid(λ), σ² = sigmoid(−λ). Shown from −1 to 1, and cut off there.
    """
    panels = []
    for dataset, ours in _some(tables.examples).groupby("dataset", sort=True):
        levels = tables.timesteps.loc[tables.timesteps["dataset"] == dataset]
        if levels.empty:
            continue
        first = levels[levels["trial"] == levels["trial"].iloc[0]].sort_values("t")
        one, cells = ours[ours["image"] == ours["image"].min()].drop_duplicates("kind").set_index("kind"), []
        for kind in ("image", "truth"):
            clean = np.asarray(_opened(one.loc[kind, "png"]), np.float64) / 127.5 - 1
            noise = np.random.default_rng(0).standard_normal(clean.shape)
            for time in TIMES:
                level = first.loc[(first["t"] - time).abs().idxmin()]
                alpha, sigma = (np.sqrt(1 / (1 + np.exp(-sign * level["log_snr"]))) for sign in (1, -1))
                noisy = alpha * clean + sigma * noise if time else clean
                label = f"t = {level['t']:.2f}, log-SNR {level['log_snr']:.1f}" if time else "t = 0"
                row = {"dataset": dataset, "image": "mask" if kind == "truth" else "image", "column": label}
                cells.append(row | {"src": _uri(Image.fromarray(((noisy.clip(-1, 1) + 1) * 127.5).astype(np.uint8)))})
        panels.append(_grid(pd.DataFrame(cells), dataset))
    return alt.vconcat(*panels) if panels else None


def _some(rows: pd.DataFrame) -> pd.DataFrame:
    """The first few images of every data set, by the first seed."""
    rows = rows[rows["seed"] == rows.groupby(GROUP)["seed"].transform("min")]
    return rows[rows.groupby("dataset")["image"].rank(method="dense") <= ROWS]


def _grid(cells: pd.DataFrame, title: str) -> alt.Chart:
    """Pictures by their columns, in the order in which these come, and by image."""
    columns, images = list(dict.fromkeys(cells["column"])), list(dict.fromkeys(cells["image"]))
    lines = {column: "|".join(textwrap.wrap(KINDS.get(column, column), 13)) for column in columns}
    cells = cells.assign(column=cells["column"].map(lines), label=cells["column"])
    bare = {"ticks": False, "domain": False, "grid": False}
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


def _opened(png: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(png))
    picture.thumbnail((SIDE, SIDE))
    return picture


def _small(png: bytes) -> str:
    return _uri(_opened(png))


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
