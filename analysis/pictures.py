"""Charts of example pictures from the ledger: ensembles (Fig. 1), the forward process (Fig. 2), and error maps.

Each function returns None if the ledger has no examples. A row is an example. Pictures are shrunk, since pages hold many.
"""

import base64
import io
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from analysis.frames import GROUP
from analysis.overlays import choose_colours, decide, draw_overlay
from analysis.tables import Tables
from studies.store.classes import ALL

SIDE = 112  # px of a picture, at most
SHOWN = 76  # px on the page
ROWS = 4  # examples of a data set
MASKS = 3  # classes of an example whose masks the forward process shows
TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
KINDS = {"image": "image", "truth": "truth", "mean": "mean", "sd": "standard deviation"}


def ensembles(tables: Tables) -> alt.VConcatChart | None:
    """Draw image, truth, and for E1 and E2 side by side the mean (1 is white) and the standard deviation (0.5 is white).

    Several classes are drawn over the image in their colours, as truth and as prediction; their standard deviation is the
    greatest of a pixel.
    """
    panels = []
    for dataset, ours in _select(tables.examples).groupby("dataset", sort=True):
        single = ours[~_has_classes(ours)]
        given = single[single["kind"].isin(["image", "truth"])].drop_duplicates(["image", "kind"])
        found = single[single["kind"].isin(["mean", "sd"])].sort_values(["series", "kind"])
        cells = pd.concat(
            [given.assign(column=given["kind"]), found.assign(column=found["series"] + ", " + found["kind"])]
        )
        cells = cells.assign(src=cells["png"].map(lambda png: _uri(_open(png))))
        named = [*tables.classes.get(dataset, []), *ours.loc[ours["class"] != ALL, "class"]]
        colours = choose_colours(list(dict.fromkeys(named)))
        drawn = [cell for one in _examples(ours[_has_classes(ours)]) for cell in _draw_classes(one, colours, tables)]
        drawn.sort(key=lambda cell: cell["place"])
        panels.append(_grid(pd.concat([cells, pd.DataFrame(drawn)]), dataset, colours if drawn else {}))
    chart = alt.vconcat(*panels) if panels else None
    return chart.resolve_scale(color="independent") if chart and tables.classes else chart


def error_maps(tables: Tables) -> alt.VConcatChart | None:
    """Draw the ensembles' errors |mean − truth| (1 is white) beside their standard deviations (0.5 is white).

    Of several classes, both are the greatest of a pixel.
    """
    panels = []
    for dataset, ours in _select(tables.examples).groupby("dataset", sort=True):
        cells = []
        for one in _examples(ours):
            names = [name for name, kind in one.pictures if kind == "mean"]
            if names:
                errors = np.abs(one.maps("mean", names) - one.maps("truth", names))
                cells += [one.cell("error", _grey(errors.max(0))), one.cell("sd", _grey(one.maps("sd", names).max(0)))]
        if cells:
            cells.sort(key=lambda cell: cell["column"])
            panels.append(_grid(pd.DataFrame(cells), dataset))
    return alt.vconcat(*panels) if panels else None


def forward_process(tables: Tables) -> alt.VConcatChart | None:
    """Draw x_t = α x0 + σ ε of an example's image and of its mask over t, at the log-SNR λ of a trial of its data set.

    α² = sigmoid(λ), σ² = sigmoid(−λ). Values are clipped to −1 and 1. Of several classes, the first MASKS are drawn.
    """
    panels = []
    for dataset, ours in _select(tables.examples).groupby("dataset", sort=True):
        levels = tables.timesteps.loc[tables.timesteps["dataset"] == dataset]
        if levels.empty:
            continue
        first = levels[levels["trial"] == levels["trial"].iloc[0]].sort_values("t")
        example = next(_examples(ours[ours["image"] == ours["image"].min()]))
        masks = [name for name, kind in example.pictures if kind == "truth"][:MASKS]
        drawn = [("image", (ALL, "image"))]
        drawn += [("mask" if name == ALL else f"mask: {name}", (name, "truth")) for name in masks]
        cells = [
            {"dataset": dataset, "image": row, **cell}
            for row, key in drawn
            for cell in _add_noise(example.pictures[key], first)
        ]
        panels.append(_grid(pd.DataFrame(cells), dataset))
    return alt.vconcat(*panels) if panels else None


@dataclass(frozen=True)
class _Example:
    """The pictures of a test image that one trial left."""

    trial: tuple[str, str]  # study and name
    dataset: str
    series: str
    image: str
    pictures: dict[tuple[str, str], bytes]  # by class and kind

    def maps(self, kind: str, names: list[str]) -> npt.NDArray[np.float64]:
        """Return the pictures of a kind of some classes in 0 to 1, [K, H, W]."""
        return np.stack([np.asarray(_open(self.pictures[name, kind]), np.float64) / 255 for name in names])

    def cell(self, kind: str, picture: Image.Image) -> dict[str, str]:
        """Return a picture as a cell of the column of the series and kind."""
        column = f"{self.series}, {kind}"
        return {"dataset": self.dataset, "image": self.image, "column": column, "src": _uri(picture)}


def _examples(rows: pd.DataFrame) -> Iterator[_Example]:
    """Yield the examples of each trial and image."""
    key = ["study", "trial", "dataset", "series", "image"]
    for (study, trial, dataset, series, image), own in rows.groupby(key, sort=False):
        pictures = {(row["class"], row["kind"]): row["png"] for row in own.to_dict("records")}
        yield _Example((study, trial), dataset, series, image, pictures)


def _draw_classes(one: _Example, colours: dict[str, str], tables: Tables) -> list[dict[str, Any]]:
    """Return the image, the true and the predicted classes over it, and the greatest standard deviation of the classes."""
    names = [name for name in colours if (name, "mean") in one.pictures]
    image, palette = _open(one.pictures[ALL, "image"]), [colours[name] for name in names]
    (trial,) = tables.trials[(tables.trials[["study", "trial"]] == list(one.trial)).all(axis=1)].to_dict("records")
    exclusive, threshold = not trial["config_data_regions"], float(trial["config_inference_threshold"])
    predicted = draw_overlay(image, decide(one.maps("mean", names), exclusive, threshold), palette)
    true = draw_overlay(image, one.maps("truth", names) > 0.5, palette)
    deviation = _grey(one.maps("sd", names).max(0))
    given = [one.cell(kind, picture) | {"column": kind} for kind, picture in (("image", image), ("truth", true))]
    cells = [*given, one.cell("prediction", predicted), one.cell("sd", deviation)]
    places = [("", 0), ("", 1), (one.series, 2), (one.series, 3)]
    return [cell | {"place": place} for cell, place in zip(cells, places, strict=True)]


def _has_classes(rows: pd.DataFrame) -> pd.Series:
    """Return which examples are of trials of several classes."""
    several = rows["class"] != ALL
    found: pd.Series = several.groupby([rows["study"], rows["trial"]]).transform("any")
    return found


def _add_noise(png: bytes, levels: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Yield a picture at each of TIMES, with the same noise. levels: rows of Tables.timesteps of one trial."""
    clean = np.asarray(_open(png), np.float64) / 127.5 - 1
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    for time in TIMES:
        level = levels.loc[(levels["t"] - time).abs().idxmin()]
        alpha, sigma = (np.sqrt(1 / (1 + np.exp(-sign * level["log_snr"]))) for sign in (1, -1))
        noisy = alpha * clean + sigma * noise if time else clean
        label = f"t = {level['t']:.2f}, log-SNR {level['log_snr']:.1f}" if time else "t = 0"
        pixels = ((noisy.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
        yield {"column": label, "src": _uri(Image.fromarray(pixels))}


def _select(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the examples of the first ROWS images of every data set, by the first seed."""
    rows = rows[rows["seed"] == rows.groupby(GROUP)["seed"].transform("min")]
    return rows[rows.groupby("dataset")["image"].rank(method="dense") <= ROWS]


def _grid(cells: pd.DataFrame, title: str, colours: dict[str, str] | None = None) -> Any:
    """Draw pictures in a grid: a column for each kind and series, in the order of their appearance, and a row for each image.

    colours: Of classes, for the legend.
    """
    cells = cells.drop_duplicates(["image", "column"])
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
    if colours:
        pictures = alt.layer(pictures, _class_legend(cells, colours, x, y))
    return pictures.properties(
        width={"step": SHOWN + 6}, height={"step": SHOWN + 6}, title=title, view=alt.ViewConfig(stroke=None)
    )


def _class_legend(cells: pd.DataFrame, colours: dict[str, str], x: alt.X, y: alt.Y) -> Any:
    """Draw nothing but the legend of the classes."""
    names = pd.DataFrame({"class": list(colours)})
    names = names.assign(column=cells["column"].iloc[0], image=cells["image"].iloc[0])
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    legend = alt.Legend(symbolType="square", symbolOpacity=1, symbolSize=120)
    points = alt.Chart(names).mark_point(size=0, opacity=0, filled=True)
    return points.encode(x=x, y=y, color=alt.Color("class:N", title=None, scale=scale, legend=legend))


def _grey(values: npt.NDArray[np.float64]) -> Image.Image:
    """Return values in 0 to 1 as a picture."""
    return Image.fromarray((values * 255).round().astype(np.uint8))


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
