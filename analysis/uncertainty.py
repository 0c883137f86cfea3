"""How far a network knows where it is wrong: reliability, risk and coverage, error and variance, GED; data and charts.

Functions that return frames take Tables; charts return None if they have no data. Of per-image numbers, `variance` is the
ensemble's, mean over the image's pixels, and the error is Brier's, mean (p − y)². All are fractions.
"""

import altair as alt
import numpy as np
import pandas as pd

from analysis.charts import facets, looks
from analysis.tables import GROUP, Tables

REGIONS = {"ece_image": "whole image", "ece_foreground": "foreground", "ece_boundary": "boundary"}
POINTS = 50  # of a curve, at most
GROUPS = 10  # of images alike in variance


def per_image(tables: Tables, metrics: list[str]) -> pd.DataFrame:
    """A row an image and trial: columns of GROUP, seed, trial, image, and those of the metrics that were recorded."""
    rows = tables.images[tables.images["metric"].isin(metrics)]
    wide = rows.pivot_table(
        index=["study", "trial", "image"], columns="metric", values="value", dropna=False, observed=True
    )
    keys = tables.trials[[*GROUP, "seed", "trial"]]
    return wide.reset_index().merge(keys, on=["study", "trial"]).reindex(columns=[*keys, "image", *metrics])


def risk_coverage(tables: Tables) -> pd.DataFrame:
    """Risk (mean 1 − Dice) of the share of images that are kept when those of greatest ensemble variance go first.

    Columns: those of GROUP, coverage, risk and oracle (when the worst go first); means over seeds. Images of equal variance
    share their risk. A trial whose variance is 0 everywhere has no order, and is left out.
    """
    found = []
    for (_, *key, seed), rows in _measured(tables):
        some = np.unique(np.linspace(0, len(rows) - 1, POINTS).round().astype(int))
        for coverage, risk, oracle in zip(*(curve[some] for curve in _curves(rows)), strict=True):
            found.append([*key, seed, coverage, risk, oracle])
    curves = pd.DataFrame(found, columns=[*GROUP, "seed", "coverage", "risk", "oracle"])
    return curves.groupby([*GROUP, "coverage"], sort=False)[["risk", "oracle"]].mean().reset_index()


def aurc(tables: Tables) -> pd.DataFrame:
    """Area under the risk-coverage curve (Geifman et al., 2019), its excess over the best order's, and the mean risk.

    Columns: those of GROUP, images, seeds, aurc, excess_aurc, risk; means over seeds.
    """
    found = []
    for (_, *key, seed), rows in _measured(tables):
        _, risk, oracle = _curves(rows)
        found.append([*key, seed, len(rows), risk.mean(), risk.mean() - oracle.mean(), risk[-1]])
    frame = pd.DataFrame(found, columns=[*GROUP, "seed", "images", "aurc", "excess_aurc", "risk"])
    means = {name: (name, "mean") for name in ("aurc", "excess_aurc", "risk")}
    return (
        frame.groupby(GROUP, sort=False).agg(images=("images", "max"), seeds=("seed", "nunique"), **means).reset_index()
    )


def error_by_variance(tables: Tables) -> pd.DataFrame:
    """Images in groups of equal number by their ensemble variance: columns of GROUP, group, images, variance, error.

    Where the members are sampled masks that are as likely as they are frequent, both are the same.
    """
    rows = per_image(tables, ["variance", "brier"]).dropna(subset=["variance", "brier"])
    if rows.empty:
        return pd.DataFrame(columns=[*GROUP, "group", "images", "variance", "error"])
    rank = rows.groupby(GROUP)["variance"].rank(method="first") - 1
    rows["group"] = (rank * GROUPS // rows.groupby(GROUP)["variance"].transform("size")).astype(int)
    means = rows.groupby([*GROUP, "group"], sort=False)
    return means.agg(images=("image", "size"), variance=("variance", "mean"), error=("brier", "mean")).reset_index()


def ged_by_samples(tables: Tables) -> pd.DataFrame:
    """GED, mean over images and seeds, by the number of samples: columns of GROUP, samples, estimate, ged."""
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
    """The ECE of single images, and of their foreground and boundary alone (diffseg/metrics.py): columns of GROUP, region,
    images, and over these mean, low (first quartile), median, high (third quartile)."""
    rows = tables.images[tables.images["metric"].isin(list(REGIONS))].dropna(subset=["value"])
    groups = rows.groupby([*GROUP, "metric"], sort=False)["value"]
    found = groups.agg(images="size", mean="mean", median="median").reset_index()
    found["low"], found["high"] = groups.quantile(0.25).to_numpy(), groups.quantile(0.75).to_numpy()
    return found.assign(region=found["metric"].map(REGIONS)).drop(columns="metric")


def left_out(tables: Tables) -> pd.DataFrame:
    """The images that means leave out since they are NaN there: columns of GROUP, metric, images and left_out, sums over
    seeds. Metrics without such images have no row."""
    rows = tables.images[[*GROUP, "metric", "value"]]
    rows = rows.assign(metric=rows["metric"].astype(str), left_out=rows["value"].isna())
    found = rows.groupby([*GROUP, "metric"], sort=False)["left_out"].agg(images="size", left_out="sum").reset_index()
    return found[found["left_out"] > 0]


def pooled_calibration(tables: Tables) -> pd.DataFrame:
    """The reliability of p(foreground) over all pixels and seeds: columns of GROUP, bin, count, confidence, accuracy."""
    rows = tables.frame("calibration", ["bin", "count", "confidence", "accuracy"])  # by image: sums are the pooled ones
    rows = rows.assign(p=rows["confidence"] * rows["count"], y=rows["accuracy"] * rows["count"])
    rows = rows.groupby([*GROUP, "bin"], sort=False)[["count", "p", "y"]].sum().reset_index()
    rows = rows[rows["count"] > 0]
    return rows.assign(confidence=rows["p"] / rows["count"], accuracy=rows["y"] / rows["count"]).drop(
        columns=["p", "y"]
    )


def reliability(tables: Tables) -> alt.ConcatChart | None:
    """Share of foreground against mean predicted probability in ten bins, and below, how many pixels each bin has."""
    rows = pooled_calibration(tables)
    if rows.empty:
        return None
    look, domain = looks(tables, rows["series"]), alt.Scale(domain=[0, 1])
    panels = []
    for dataset, ours in rows.groupby("dataset", sort=True):
        base = alt.Chart(ours).encode(color=look["color"], tooltip=_tooltip("bin", "count", "confidence", "accuracy"))
        x = alt.X("confidence:Q", title=None, scale=domain)
        lines = base.encode(x=x, y=alt.Y("accuracy:Q", title="share of foreground", scale=domain))
        points = lines.mark_point(filled=True, opacity=0.9, size=45).encode(shape=look["shape"])
        curve = alt.layer(_diagonal(ours), lines.mark_line(strokeWidth=1.2), points).properties(
            width=240, height=240, title=dataset
        )
        axis = alt.Axis(values=[10**k for k in range(0, 13, 2)], format="~s")
        y = alt.Y("count:Q", title="pixels (log)", scale=alt.Scale(type="log"), axis=axis)
        counts = base.encode(x=alt.X("confidence:Q", title="predicted probability", scale=domain), y=y)
        counts = counts.mark_line(strokeWidth=1, point={"size": 15}).properties(width=240, height=80)
        panels.append(alt.vconcat(curve, counts))
    return alt.concat(*panels, columns=3)


def risk_coverage_curves(tables: Tables) -> alt.FacetChart | None:
    """Risk over coverage by ensemble variance; dotted, were the worst images left out first."""
    rows = risk_coverage(tables)
    if rows.empty:
        return None
    look = looks(tables, rows["series"])
    base = alt.Chart(rows).encode(
        x=alt.X("coverage:Q", title="coverage: share of images kept", axis=alt.Axis(format="%")),
        color=look["color"],
        tooltip=_tooltip("coverage", "risk", "oracle"),
    )
    y = alt.Y("risk:Q", title="risk: mean 1 − Dice")
    oracle = base.mark_line(strokeWidth=0.8, strokeDash=[1, 2]).encode(y="oracle:Q")
    return facets(alt.layer(oracle, base.mark_line().encode(y=y, strokeDash=look["strokeDash"])), rows)


def error_against_variance(tables: Tables) -> alt.FacetChart | None:
    """Brier score against ensemble variance, in ten groups of images alike in variance; equal on the diagonal."""
    rows = error_by_variance(tables)
    if rows.empty:
        return None
    look = looks(tables, rows["series"])
    base = alt.Chart(rows).encode(
        x=alt.X("variance:Q", title="ensemble variance"),
        y=alt.Y("error:Q", title="Brier score"),
        color=look["color"],
        tooltip=_tooltip("images", "variance", "error"),
    )
    points = base.mark_point(filled=True, size=45).encode(shape=look["shape"])
    end = float(min(rows["variance"].max(), rows["error"].max()))
    return facets(alt.layer(_diagonal(rows, end), base.mark_line(strokeWidth=1), points), rows)


def ged_over_samples(tables: Tables) -> alt.FacetChart | None:
    """GED over the number of samples: as published, which falls with it even for a perfect model, and dashed without that."""
    rows = ged_by_samples(tables)
    if rows.empty:
        return None
    look = looks(tables, rows["series"])
    dash = alt.StrokeDash("estimate:N", title="estimate", scale=alt.Scale(range=[[1, 0], [4, 3]]))
    lines = (
        alt.Chart(rows)
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "samples:Q", title="samples (log scale)", scale=alt.Scale(type="log", base=2), axis=alt.Axis(format="d")
            ),
            y=alt.Y("ged:Q", title="GED"),
            color=look["color"],
            strokeDash=dash,
            shape=look["shape"],
            tooltip=_tooltip("samples", "estimate", "ged"),
        )
    )
    return facets(lines, rows)


def image_calibrations(tables: Tables) -> alt.FacetChart | None:
    """ECE of single images, and of their foreground and boundary alone: mean, and a bar over the middle half of the images."""
    rows = image_calibration(tables)
    if rows.empty:
        return None
    look = looks(tables, rows["series"])
    base = alt.Chart(rows).encode(
        y=alt.Y("region:N", title=None, sort=list(REGIONS.values())),
        yOffset="series:N",
        color=look["color"],
        tooltip=_tooltip("region", "images", "mean", "low", "median", "high"),
    )
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title="ECE of an image"), x2="high:Q")
    points = base.mark_point(filled=True, size=45, opacity=1).encode(x="mean:Q", shape=look["shape"])
    height = 3 * max(40, 9 * rows["series"].nunique())
    return facets(alt.layer(bars, points), rows, height)


def _measured(tables: Tables):
    """(key, images) by trial: those with variance and Dice, and a variance that is not the same everywhere."""
    rows = per_image(tables, ["variance", "dice"]).dropna(subset=["variance", "dice"])
    for key, images in rows.groupby(["trial", *GROUP, "seed"], sort=False):
        if images["variance"].nunique() > 1:
            yield key, images


def _curves(images: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage, risk and the best order's risk of one trial, at every number of images kept."""
    risk = 1 - images["dice"]
    shared = risk.groupby(images["variance"]).transform("mean")  # images of equal variance have no order
    kept = np.arange(1, len(risk) + 1)
    ordered = shared.to_numpy()[np.argsort(images["variance"].to_numpy(), kind="stable")]
    return kept / len(risk), ordered.cumsum() / kept, np.sort(risk.to_numpy()).cumsum() / kept


def _diagonal(rows: pd.DataFrame, end: float = 1.0) -> alt.Chart:
    """What is ideal: both axes equal."""
    line = alt.Chart(rows).transform_aggregate(groupby=["dataset"]).transform_calculate(zero="0", end=str(end))
    return line.mark_rule(color="#888", strokeDash=[2, 2]).encode(x="zero:Q", x2="end:Q", y="zero:Q", y2="end:Q")


def _tooltip(*names: str) -> list:
    forms = {"count": ",", "images": ",", "coverage": ".0%"}
    words = ("region", "estimate", "bin", "samples")
    return ["dataset", "series", *(n if n in words else alt.Tooltip(n, format=forms.get(n, ".4f")) for n in names)]
