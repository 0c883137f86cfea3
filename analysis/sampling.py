"""Quality against the number of network evaluations that sampling takes, of trials that share one training."""

import altair as alt
import numpy as np
import pandas as pd

from analysis.frames import GROUP, PLACE
from analysis.series import IDENTITY, describe_setting
from analysis.style import FEW_TICKS, SHAPES, encode_values
from analysis.tables import Tables
from diffseg.evaluation.registry import METRICS

SHOWN = ("iou", "ece", "ged_unbiased")
WITHIN = {"iou": 0.003, "ece": 0.005}  # of the reference: what is as good
OF_WAYS = {  # the settings by which ways of sampling differ, each a column
    "sampler": "config_inference_sampler",
    "sampled": "config_inference_steps",
    "ensemble": "config_inference_ensemble",
    "settled": "config_inference_settled",
}
WAYS = [*OF_WAYS, "others"]


def compare_sampling(tables: Tables) -> pd.DataFrame:
    """Return E2's ways of sampling, a row each, for data sets and networks where several were tried on one training.

    Columns: those of GROUP, sampler, steps, ensemble, settled (0 for never), others (further settings in which trials of the data
    set and network differ, in words, where they are not the most frequent one), seeds, evaluations (of the network for an image:
    those of a sample times the ensemble), the mean over seeds of each metric of SHOWN, and the mean and the greatest distance
    over seeds of its difference to the reference (iou_difference, iou_distance), reference (bool) and alike: whether IoU and
    ECE are, in the mean, within WITHIN of the reference's or better. The reference has the same other settings and the most
    evaluations per sample; of several such, it is ancestral sampling, and of these the ensemble size of most trials.
    """
    trials = tables.trials[(tables.trials["experiment"] == "e2") & tables.trials["evaluations"].notna()]
    trials = trials[trials.groupby("trained")["trial"].transform("size") > 1]
    if trials.empty:
        return pd.DataFrame()
    # The column is missing if no trial was to settle.
    settled = trials.get(OF_WAYS["settled"], pd.Series(0, trials.index)).fillna(0).astype(int)
    columns = {name: settled if name == "settled" else trials[column] for name, column in OF_WAYS.items()}
    trials = trials.assign(**columns, others=_describe_others(trials))
    found = [_compare_to_reference(alike) for _, alike in trials.groupby([*PLACE, "others"], sort=False)]
    rows = pd.concat(found, ignore_index=True)
    return rows.rename(columns={"sampled": "steps"})


def _compare_to_reference(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `compare_sampling` of one study, data set and network, and of the same other settings."""
    is_reference = _find_reference(trials)
    base = trials[is_reference].set_index("seed")[list(SHOWN)]
    apart = trials[list(SHOWN)] - base.reindex(trials["seed"]).to_numpy()
    trials = trials.assign(total=trials["evaluations"] * trials["ensemble"], reference=is_reference)
    trials = trials.join(apart.add_suffix("_difference")).join(apart.abs().add_suffix("_distance"))
    means = {name: (name, "mean") for name in SHOWN}
    means |= {f"{name}_difference": (f"{name}_difference", "mean") for name in SHOWN}
    means |= {f"{name}_distance": (f"{name}_distance", "max") for name in SHOWN}
    rows = trials.groupby([*GROUP, *WAYS], sort=False).agg(
        seeds=("seed", "nunique"), evaluations=("total", "mean"), reference=("reference", "first"), **means
    )
    rows["alike"] = (rows["iou_difference"] >= -WITHIN["iou"]) & (rows["ece_difference"] <= WITHIN["ece"])
    return rows.reset_index().sort_values("evaluations", kind="stable")


def _describe_others(trials: pd.DataFrame) -> pd.Series:
    """Return in words, for each trial, its settings besides OF_WAYS that are not the most frequent ones of its place."""
    columns = [c for c in trials if c.startswith("config_") and c not in (*IDENTITY, *OF_WAYS.values())]
    words = pd.Series("", index=trials.index)
    for _, group in trials.groupby(PLACE):
        texts = group[columns].astype(str)
        unusual = texts.ne(texts.mode().iloc[0])
        for index, row in group[unusual.any(axis=1)].iterrows():
            named = [column for column in columns if unusual.at[index, column] and not pd.isna(row[column])]
            words[index] = ", ".join(describe_setting(column, row[column]) for column in named) or "otherwise"
    return words


def _find_reference(trials: pd.DataFrame) -> pd.Series:
    """Return which trials sample as the reference does."""
    usual = trials["ensemble"].mode()[0]
    order = trials.assign(other=trials["sampler"] != "ancestral", size=trials["ensemble"] != usual)
    first = order.sort_values(["evaluations", "other", "size"], ascending=[False, True, True], kind="stable").iloc[0]
    return (trials[WAYS] == first[WAYS]).all(axis=1)


def sampling(tables: Tables) -> alt.VConcatChart | None:
    """Draw IoU, ECE and GED over the network evaluations an image, a shape for each ensemble size.

    A colour stands for a sampler and, where trials differ in further settings, for these.
    """
    rows = compare_sampling(tables)
    if rows.empty or rows["steps"].nunique() < 2:
        return None
    rows = rows.assign(line=(rows["sampler"] + ", " + rows["others"]).str.removesuffix(", "))
    sizes = sorted(set(rows["ensemble"]))
    looks = encode_values("line", sorted(set(rows["line"])), rows["line"])
    shapes = alt.Scale(domain=sizes, range=[SHAPES[k % len(SHAPES)] for k in range(len(sizes))])
    shape = alt.Shape("ensemble:O", title="samples", scale=shapes)
    legend = alt.Legend(symbolType="circle", symbolStrokeColor="#555", symbolStrokeWidth=1)
    ends = alt.Scale(domain=["all steps", "settled"], range=["#fff", "#999"])
    fill = alt.Fill("ends:N", title=None, legend=legend, scale=ends)
    tooltip = ["sampler", "others", "steps", "ensemble", "settled", "seeds", alt.Tooltip("evaluations", format=",.0f")]
    tooltip += [alt.Tooltip(metric, format=".4f") for metric in SHOWN]
    rows = rows.assign(iou=100 * rows["iou"], ends=np.where(rows["settled"] > 0, "settled", "all steps"))
    panels = []
    for metric in SHOWN:
        some = rows.dropna(subset=[metric])
        if some.empty:
            continue
        title = METRICS[metric].title + (" (%)" if metric == "iou" else "")
        base = alt.Chart().encode(
            x=alt.X("evaluations:Q", title="network evaluations an image", axis=FEW_TICKS, scale=alt.Scale(type="log")),
            y=alt.Y(f"{metric}:Q", title=title, scale=alt.Scale(zero=False)),
            color=looks["color"],
        )
        lines = base.transform_filter("datum.settled == 0").mark_line(strokeWidth=1)
        lines = lines.encode(detail="ensemble:O", strokeDash=looks["strokeDash"])
        points = base.mark_point(size=55, strokeWidth=2).encode(shape=shape, fill=fill, tooltip=tooltip)
        layers = alt.layer(lines, points, data=some).properties(width=300, height=200)
        panels.append(layers.facet(alt.Facet("dataset:N", title=None), columns=3).resolve_scale(y="independent"))
    return alt.vconcat(*panels)
