"""Charts of example pictures from the ledger: ensembles (Fig. 1), the forward process (Fig. 2), and error maps.

Each function returns None if the ledger has no examples. A row is an example: those of the worst, the middle and the best IoU of
those that were kept (analysis/example_choice.py). Pictures are shrunk, since pages hold many.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from analysis.example_choice import choose_examples
from analysis.overlays import (
    PREDICTION,
    TRUTH,
    choose_colours,
    decide,
    draw_contours,
    draw_overlay,
    paint,
)
from analysis.picture_grid import draw_grid, open_png, to_grey, to_uri
from analysis.tables import Tables
from analysis.verdicts import signed
from studies.store.classes import ALL

MASKS = 3  # classes of an example whose masks the forward process shows
TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def ensembles(tables: Tables) -> alt.VConcatChart | None:
    """Draw the image with the truth's contour, and for E1 and E2 with the mask's contour, the mean and the deviation.

    1 is white in a mean. Several classes are drawn over the image in their colours, as truth and as prediction; their standard
    deviation is the greatest of a pixel.
    """
    panels = []
    for dataset, ours in choose_examples(tables).groupby("dataset", sort=True):
        named = [*tables.classes.get(dataset, []), *ours.loc[ours["class"] != ALL, "class"]]
        colours = choose_colours(list(dict.fromkeys(named)))
        cells = []
        for one in _examples(ours):
            drawn = _draw_classes(one, colours, tables) if one.has_classes else _draw_mask(one, tables)
            cells += [cell | {"label": _label(ours, one.image)} for cell in drawn]
        if cells:
            cells.sort(key=lambda cell: cell["place"])
            panels.append(draw_grid(pd.DataFrame(cells), dataset, colours))
    chart = alt.vconcat(*panels) if panels else None
    return chart.resolve_scale(color="independent") if chart else chart


def error_maps(tables: Tables) -> alt.VConcatChart | None:
    """Draw the ensembles' errors |mean − truth| (1 is white) beside their standard deviations.

    Of several classes, both are the greatest of a pixel.
    """
    panels = []
    for dataset, ours in choose_examples(tables).groupby("dataset", sort=True):
        cells = []
        for one in _examples(ours):
            names = [name for name, kind in one.pictures if kind == "mean"]
            if names:
                errors = np.abs(one.maps("mean", names) - one.maps("truth", names))
                drawn = [one.cell("error", to_grey(errors.max(0))), one.cell("sd", paint(one.maps("sd", names).max(0)))]
                cells += [cell | {"label": _label(ours, one.image)} for cell in drawn]
        if cells:
            cells.sort(key=lambda cell: cell["column"])
            panels.append(draw_grid(pd.DataFrame(cells), dataset))
    return alt.vconcat(*panels) if panels else None


def forward_process(tables: Tables) -> alt.VConcatChart | None:
    """Draw x_t = α x0 + σ ε of an example's image and of its mask over t, at the log-SNR λ of a trial of its data set.

    α² = sigmoid(λ), σ² = sigmoid(−λ). Values are clipped to −1 and 1. Of several classes, the first MASKS are drawn.
    """
    panels = []
    for dataset, ours in choose_examples(tables).groupby("dataset", sort=True):
        levels = tables.timesteps.loc[tables.timesteps["dataset"] == dataset]
        if levels.empty:
            continue
        first = levels[levels["trial"] == levels["trial"].iloc[0]].sort_values("t")
        example = list(_examples(ours))[-1]  # the best, since the worst may be empty
        masks = [name for name, kind in example.pictures if kind == "truth"][:MASKS]
        drawn = [("image", (ALL, "image"))]
        drawn += [("mask" if name == ALL else f"mask: {name}", (name, "truth")) for name in masks]
        cells = [
            {"dataset": dataset, "image": row, "label": row, **cell}
            for row, key in drawn
            for cell in _add_noise(example.pictures[key], first)
        ]
        panels.append(draw_grid(pd.DataFrame(cells), dataset))
    return alt.vconcat(*panels) if panels else None


@dataclass(frozen=True)
class _Example:
    """The pictures of a test image that one trial left."""

    trial: tuple[str, str]  # study and name
    dataset: str
    series: str
    image: str
    pictures: dict[tuple[str, str], bytes]  # by class and kind

    @property
    def has_classes(self) -> bool:
        """Whether the masks have several classes."""
        return any(name != ALL for name, _ in self.pictures)

    def maps(self, kind: str, names: list[str]) -> npt.NDArray[np.float64]:
        """Return the pictures of a kind of some classes in 0 to 1, [K, H, W]."""
        return np.stack([np.asarray(open_png(self.pictures[name, kind]), np.float64) / 255 for name in names])

    def rule(self, tables: Tables) -> tuple[bool, float]:
        """Return whether the classes exclude each other, and the threshold of a mask."""
        trials, (study, name) = tables.trials, self.trial
        trial = trials[(trials["study"] == study) & (trials["trial"] == name)].iloc[0]
        chosen = trial.get("risk_threshold")
        threshold = trial["config_inference_threshold"] if pd.isna(chosen) else chosen
        return not trial.get("config_data_regions"), float(threshold)

    def cell(self, kind: str, picture: Image.Image) -> dict[str, str]:
        """Return a picture as a cell of the column of the series and kind."""
        column = f"{self.series}, {kind}"
        return {"dataset": self.dataset, "image": self.image, "column": column, "src": to_uri(picture)}


def _examples(rows: pd.DataFrame) -> Iterator[_Example]:
    """Yield the examples of each trial and image."""
    key = ["study", "trial", "dataset", "series", "image"]
    for (study, trial, dataset, series, image), own in rows.groupby(key, sort=False):
        pictures = {(row["class"], row["kind"]): row["png"] for row in own.to_dict("records")}
        yield _Example((study, trial), dataset, series, image, pictures)


def _draw_mask(one: _Example, tables: Tables) -> list[dict[str, Any]]:
    """Return the image with the true contour, then with that of the ensemble's mask, its mean, and its deviation."""
    truth = one.maps("truth", [ALL]) > 0.5
    image = draw_contours(open_png(one.pictures[ALL, "image"]), truth, [TRUTH])
    cells = [one.cell("image", image) | {"column": "image and truth", "place": 0}]
    if (ALL, "mean") in one.pictures:
        mean = one.maps("mean", [ALL])
        _, threshold = one.rule(tables)
        both = np.concatenate([truth, mean > threshold])
        mask = draw_contours(open_png(one.pictures[ALL, "image"]), both, [TRUTH, PREDICTION])
        cells.append(one.cell("mask", mask) | {"place": 1})
        cells.append(one.cell("mean", to_grey(mean[0])) | {"place": 1})
        cells.append(one.cell("sd", paint(one.maps("sd", [ALL])[0])) | {"place": 1})
    return cells


def _draw_classes(one: _Example, colours: dict[str, str], tables: Tables) -> list[dict[str, Any]]:
    """Return the image, the true and the predicted classes over it, and the greatest standard deviation of the classes."""
    names = [name for name in colours if (name, "mean") in one.pictures]
    image, palette = open_png(one.pictures[ALL, "image"]), [colours[name] for name in names]
    exclusive, threshold = one.rule(tables)
    predicted = draw_overlay(image, decide(one.maps("mean", names), exclusive, threshold), palette)
    true = draw_overlay(image, one.maps("truth", names) > 0.5, palette)
    deviation = paint(one.maps("sd", names).max(0))
    given = [one.cell(kind, picture) | {"column": kind} for kind, picture in (("image", image), ("truth", true))]
    cells = [*given, one.cell("prediction", predicted), one.cell("sd", deviation)]
    return [cell | {"place": place} for cell, place in zip(cells, (0, 1, 2, 2), strict=True)]


def _label(rows: pd.DataFrame, image: str) -> str:
    """Return what a row of pictures is called, in lines: the image and the IoU of each experiment there."""
    return str(rows.loc[rows["image"] == image, "label"].iloc[0])


def _add_noise(png: bytes, levels: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Yield a picture at each of TIMES, with the same noise. levels: rows of Tables.timesteps of one trial."""
    clean = np.asarray(open_png(png), np.float64) / 127.5 - 1
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    for time in TIMES:
        level = levels.loc[(levels["t"] - time).abs().idxmin()]
        alpha, sigma = (np.sqrt(1 / (1 + np.exp(-sign * level["log_snr"]))) for sign in (1, -1))
        noisy = alpha * clean + sigma * noise if time else clean
        label = f"t = {level['t']:.2f}, log-SNR {signed(level['log_snr'], '.1f')}" if time else "t = 0"
        pixels = ((noisy.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
        yield {"column": label, "src": to_uri(Image.fromarray(pixels))}
