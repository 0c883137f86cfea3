"""Quality against the number of network evaluations that sampling takes, of trials that share one training."""

import altair as alt
import numpy as np
import pandas as pd

from analysis.frames import GROUP
from analysis.style import COLOURS, FEW_TICKS, SHAPES
from analysis.tables import Tables
from diffseg.evaluation.registry import METRICS

SHOWN = ("iou", "ece", "ged_unbiased")
WITHIN = {"iou": 0.003, "ece": 0.005}  # of the reference: what is as good
WAYS = ["sampler", "sampled", "ensemble", "settled"]  # the settings by which ways of sampling differ


def compare_sampling(tables: Tables) -> pd.DataFrame:
    """Return E2's ways of sampling, a row each, for data sets and networks where several were tried on one training.

    Columns: those of GROUP, sampler, steps, ensemble, settled (0 for never), seeds, evaluations (of the network for an image:
    those of a sample times the ensemble), the mean over seeds of each metric of SHOWN, and the mean and the greatest distance
    over seeds of its difference to the reference (iou_difference, iou_distance), reference (bool) and alike: whether IoU and
    ECE are, in the mean, within WITHIN of the reference's or better. The reference has the most evaluations per sample; of
    several such, ancestral sampling, and of these the ensemble size of most trials.
    """
    trials = tables.trials[(tables.trials["experiment"] == "e2") & tables.trials["evaluations"].notna()]
    trials = trials[trials.groupby("trained")["trial"].transform("size") > 1]
    if trials.empty:
        return pd.DataFrame()
    # The column is missing if no trial was to settle.
    settled = trials.get("config_inference_settled", pd.Series(0, trials.index))
    trials = trials.assign(
        sampler=trials["config_inference_sampler"],
        ensemble=trials["config_inference_ensemble"],
        settled=settled.fillna(0).astype(int),
        sampled=trials["config_inference_steps"],
    )
    found = [_compare_to_reference(alike) for _, alike in trials.groupby(["study", "dataset", "network"], sort=False)]
    rows = pd.concat(found, ignore_index=True)
    return rows.rename(columns={"sampled": "steps"})


def _compare_to_reference(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `compare_sampling` of one study, data set and network."""
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


def _find_reference(trials: pd.DataFrame) -> pd.Series:
    """Return which trials sample as the reference does."""
    usual = trials["ensemble"].mode()[0]
    order = trials.assign(other=trials["sampler"] != "ancestral", size=trials["ensemble"] != usual)
    first = order.sort_values(["evaluations", "other", "size"], ascending=[False, True, True], kind="stable").iloc[0]
    return (trials[WAYS] == first[WAYS]).all(axis=1)


def sampling(tables: Tables) -> alt.VConcatChart | None:
    """Draw IoU, ECE and GED over the network evaluations an image, a colour for each sampler, a shape for each ensemble size."""
    rows = compare_sampling(tables)
    if rows.empty or rows["steps"].nunique() < 2:
        return None
    samplers = sorted(set(rows["sampler"]))
    sizes = sorted(set(rows["ensemble"]))
    colour = alt.Color("sampler:N", title="sampler", scale=alt.Scale(domain=samplers, range=COLOURS[: len(samplers)]))
    shapes = alt.Scale(domain=sizes, range=[SHAPES[k % len(SHAPES)] for k in range(len(sizes))])
    shape = alt.Shape("ensemble:O", title="samples", scale=shapes)
    legend = alt.Legend(symbolType="circle", symbolStrokeColor="#555", symbolStrokeWidth=1)
    ends = alt.Scale(domain=["all steps", "settled"], range=["#fff", "#999"])
    fill = alt.Fill("ends:N", title=None, legend=legend, scale=ends)
    tooltip = ["sampler", "steps", "ensemble", "settled", "seeds", alt.Tooltip("evaluations", format=",.0f")]
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
            color=colour,
        )
        lines = base.transform_filter("datum.settled == 0").mark_line(strokeWidth=1).encode(detail="ensemble:O")
        points = base.mark_point(size=55, strokeWidth=2).encode(shape=shape, fill=fill, tooltip=tooltip)
        layers = alt.layer(lines, points, data=some).properties(width=300, height=200)
        panels.append(layers.facet(alt.Facet("dataset:N", title=None), columns=3).resolve_scale(y="independent"))
    return alt.vconcat(*panels)
