"""Uncertainty as data frames: reliability, risk and coverage, error and variance, and GED over the number of samples.

All functions take Tables. Of an image, `variance` is the variance of the ensemble's members, mean over the pixels, and the
error is the Brier score, mean (p − y)². All values are fractions. analysis/uncertainty_charts.py draws the frames.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from analysis.frames import GROUP
from analysis.statistics import Array
from analysis.tables import Tables
from studies.store.classes import ALL

REGIONS = {"ece_image": "whole image", "ece_foreground": "foreground", "ece_boundary": "boundary"}
POINTS = 50  # of a curve, at most
GROUPS = 10  # of images of similar variance


def pivot_images(tables: Tables, metrics: list[str]) -> pd.DataFrame:
    """Return a row for each image and trial: columns of GROUP, seed, trial, image, and the metrics; NaN if not recorded."""
    rows = tables.images[tables.images["metric"].isin(metrics)]
    wide = rows.pivot_table(
        index=["study", "trial", "image"], columns="metric", values="value", dropna=False, observed=True
    )
    keys = tables.trials[[*GROUP, "seed", "trial"]]
    return wide.reset_index().merge(keys, on=["study", "trial"]).reindex(columns=[*keys, "image", *metrics])


def risk_coverage(tables: Tables) -> pd.DataFrame:
    """Return the risk (mean 1 − Dice) of the images that are kept when those of the greatest ensemble variance are left out.

    Columns: those of GROUP, coverage (share of images kept), risk and oracle (the risk when the worst images are left out);
    means over seeds. Images of equal variance share their risk. A trial whose images all have the same variance has no order,
    and is left out.
    """
    found = []
    for (_, *key, seed), rows in _trials_with_variance(tables):
        some = np.unique(np.linspace(0, len(rows) - 1, POINTS).round().astype(int))
        for coverage, risk, oracle in zip(*(curve[some] for curve in risk_curves(rows)), strict=True):
            found.append([*key, seed, coverage, risk, oracle])
    curves = pd.DataFrame(found, columns=[*GROUP, "seed", "coverage", "risk", "oracle"])
    return curves.groupby([*GROUP, "coverage"], sort=False)[["risk", "oracle"]].mean().reset_index()


def aurc(tables: Tables) -> pd.DataFrame:
    """Return the area under the risk-coverage curve (Geifman et al., 2019), its excess over the oracle's, and the mean risk.

    Columns: those of GROUP, images, seeds, aurc, excess_aurc, risk; means over seeds.
    """
    found = []
    for (_, *key, seed), rows in _trials_with_variance(tables):
        _, risk, oracle = risk_curves(rows)
        found.append([*key, seed, len(rows), risk.mean(), risk.mean() - oracle.mean(), risk[-1]])
    frame = pd.DataFrame(found, columns=[*GROUP, "seed", "images", "aurc", "excess_aurc", "risk"])
    means = {name: (name, "mean") for name in ("aurc", "excess_aurc", "risk")}
    return (
        frame.groupby(GROUP, sort=False).agg(images=("images", "max"), seeds=("seed", "nunique"), **means).reset_index()
    )


def error_by_variance(tables: Tables) -> pd.DataFrame:
    """Return mean variance and error of images, in ten groups of equal size by their ensemble variance.

    Columns: those of GROUP, group, images, variance, error. Variance and error are equal if the sampled masks are as frequent as
    they are likely.
    """
    rows = pivot_images(tables, ["variance", "brier"]).dropna(subset=["variance", "brier"])
    if rows.empty:
        return pd.DataFrame(columns=[*GROUP, "group", "images", "variance", "error"])
    rank = rows.groupby(GROUP)["variance"].rank(method="first") - 1
    rows["group"] = (rank * GROUPS // rows.groupby(GROUP)["variance"].transform("size")).astype(int)
    means = rows.groupby([*GROUP, "group"], sort=False)
    return means.agg(images=("image", "size"), variance=("variance", "mean"), error=("brier", "mean")).reset_index()


def ged_by_samples(tables: Tables) -> pd.DataFrame:
    """Return the GED, mean over images and seeds, by the number of samples: columns of GROUP, samples, estimate, ged."""
    names = [f"ged{kind}{number}" for kind in ("", "_unbiased") for number in ("", *(f"_{2**k}" for k in range(1, 12)))]
    rows = tables.images[tables.images["metric"].isin([*names, "samples"])].dropna(subset=["value"])
    means = rows.groupby([*GROUP, "metric"], sort=False)["value"].mean().reset_index()
    every = means[means["metric"] == "samples"].set_index(GROUP)["value"].rename("every").reset_index()
    means = means[means["metric"] != "samples"].merge(every, on=GROUP)
    number = pd.to_numeric(means["metric"].str.extract(r"_(\d+)$")[0])
    means["samples"] = number.fillna(means["every"]).astype(int)
    means["estimate"] = np.where(means["metric"].str.contains("unbiased"), "without bias", "as published")
    return means.rename(columns={"value": "ged"})[[*GROUP, "samples", "estimate", "ged"]]


def image_calibration(tables: Tables) -> pd.DataFrame:
    """Return the ECE of single images, of the whole image, its foreground and its boundary.

    Columns: those of GROUP, region, images, and over the images mean, low (first quartile), median, high (third quartile).
    """
    rows = tables.images[tables.images["metric"].isin(list(REGIONS))].dropna(subset=["value"])
    groups = rows.groupby([*GROUP, "metric"], sort=False)["value"]
    found = groups.agg(images="size", mean="mean", median="median").reset_index()
    found["low"], found["high"] = groups.quantile(0.25).to_numpy(), groups.quantile(0.75).to_numpy()
    return found.assign(region=found["metric"].map(REGIONS)).drop(columns="metric")


def count_left_out(tables: Tables) -> pd.DataFrame:
    """Return the numbers of images for which a metric is NaN, so that its mean leaves them out.

    Columns: those of GROUP, metric, images and left_out, sums over seeds. Metrics without such images have no row.
    """
    rows = tables.images[[*GROUP, "metric", "value"]]
    rows = rows.assign(metric=rows["metric"].astype(str), left_out=rows["value"].isna())
    found = rows.groupby([*GROUP, "metric"], sort=False)["left_out"].agg(images="size", left_out="sum").reset_index()
    return found[found["left_out"] > 0]


def count_empty(tables: Tables, at_least: float = 0.1) -> pd.DataFrame:
    """Return the data sets of whose test masks many are empty, so that IoU and Dice reward a network that marks nothing.

    Columns: dataset and share, that of the masks of an image and a class without a pixel, at least `at_least`.
    """
    rows = tables.frame("images", ["value"], ds.field("metric") == "true_pixels", of_class=None)
    named = (rows["class"] != ALL).groupby(rows["dataset"]).transform("any")
    rows = rows[~named | (rows["class"] != ALL)]  # those of all of several classes are means of counts
    found = (rows["value"] == 0).groupby(rows["dataset"], sort=False).mean().rename("share").reset_index()
    return found[found["share"] >= at_least]


def pooled_calibration(tables: Tables) -> pd.DataFrame:
    """Return the reliability of each class's probability over all pixels and seeds.

    Columns: those of GROUP, class ("all" if there is one only), bin, count, confidence, accuracy.
    """
    columns = ["bin", "count", "confidence", "accuracy"]
    rows = tables.frame("calibration", columns, of_class=None)  # by image: sums are the pooled ones
    rows = rows.assign(p=rows["confidence"] * rows["count"], y=rows["accuracy"] * rows["count"])
    rows = rows.groupby([*GROUP, "class", "bin"], sort=False)[["count", "p", "y"]].sum().reset_index()
    rows = rows[rows["count"] > 0]
    return rows.assign(confidence=rows["p"] / rows["count"], accuracy=rows["y"] / rows["count"]).drop(
        columns=["p", "y"]
    )


def _trials_with_variance(tables: Tables) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Yield (trial, *GROUP, seed) and the images of each trial whose images have Dice and differ in variance."""
    rows = pivot_images(tables, ["variance", "dice"]).dropna(subset=["variance", "dice"])
    for key, images in rows.groupby(["trial", *GROUP, "seed"], sort=False):
        if images["variance"].nunique() > 1:
            yield key, images


def risk_curves(images: pd.DataFrame) -> tuple[Array, Array, Array]:
    """Return coverage, risk and the oracle's risk of one trial, at every number of images kept."""
    risk = 1 - images["dice"]
    shared = risk.groupby(images["variance"]).transform("mean")  # images of equal variance have no order
    kept = np.arange(1, len(risk) + 1)
    ordered = shared.to_numpy()[np.argsort(images["variance"].to_numpy(), kind="stable")]
    return kept / len(risk), ordered.cumsum() / kept, np.sort(risk.to_numpy()).cumsum() / kept
