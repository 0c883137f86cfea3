"""Quality against the network evaluations that sampling takes, of trials that share one training; data and chart."""

import altair as alt
import numpy as np
import pandas as pd

from analysis.charts import COLOURS, FEW_TICKS, SHAPES
from analysis.tables import GROUP, Tables

METRICS = {"iou": "IoU (%)", "ece": "ECE", "ged_unbiased": "GED (unbiased)"}
WITHIN = {"iou": 0.003, "ece": 0.005}  # of the reference: what is as good


def by_evaluations(tables: Tables) -> pd.DataFrame:
    """E2's ways of sampling, of data sets and networks of which several were tried on one training: a row each.

    Columns: those of GROUP, sampler, steps, ensemble, settled (0 for never), seeds, evaluations (of the network, an image:
    those of a sample times the ensemble), of every metric its mean over seeds, and the mean and the greatest distance over seeds of
    its difference to the reference (iou_difference, iou_distance), reference (bool) and alike: whether IoU and ECE are, in the
    mean, within WITHIN of the reference's or better. The reference is what took most evaluations a sample: of several, ancestral
    sampling, and of that the ensemble of most trials.
    """
    trials = tables.trials[(tables.trials["experiment"] == "e2") & tables.trials["evaluations"].notna()]
    trials = trials[trials.groupby("trained")["trial"].transform("size") > 1]
    if trials.empty:
        return pd.DataFrame()
    # There is no column if none of them was to settle.
    settled = trials.get("config_inference_settled", pd.Series(0, trials.index))
    trials = trials.assign(
        sampler=trials["config_inference_sampler"],
        ensemble=trials["config_inference_ensemble"],
        settled=settled.fillna(0).astype(int),
        sampled=trials["config_inference_steps"],
    )
    found = [_differences(alike) for _, alike in trials.groupby(["study", "dataset", "network"], sort=False)]
    rows = pd.concat(found, ignore_index=True)
    return rows.rename(columns={"sampled": "steps"})


def _differences(trials: pd.DataFrame) -> pd.DataFrame:
    ways = ["sampler", "sampled", "ensemble", "settled"]
    usual = trials["ensemble"].mode()[0]
    order = trials.assign(other=trials["sampler"] != "ancestral", size=trials["ensemble"] != usual)
    first = order.sort_values(["evaluations", "other", "size"], ascending=[False, True, True], kind="stable").iloc[0]
    is_first = (trials[ways] == first[ways]).all(axis=1)
    base = trials[is_first].set_index("seed")[list(METRICS)]
    apart = trials[list(METRICS)] - base.reindex(trials["seed"]).to_numpy()
    trials = trials.assign(total=trials["evaluations"] * trials["ensemble"], reference=is_first)
    trials = trials.join(apart.add_suffix("_difference")).join(apart.abs().add_suffix("_distance"))
    means = {name: (name, "mean") for name in METRICS}
    means |= {f"{name}_difference": (f"{name}_difference", "mean") for name in METRICS}
    means |= {f"{name}_distance": (f"{name}_distance", "max") for name in METRICS}
    rows = trials.groupby([*GROUP, *ways], sort=False).agg(
        seeds=("seed", "nunique"), evaluations=("total", "mean"), reference=("reference", "first"), **means
    )
    rows["alike"] = (rows["iou_difference"] >= -WITHIN["iou"]) & (rows["ece_difference"] <= WITHIN["ece"])
    return rows.reset_index().sort_values("evaluations", kind="stable")


def sampling(tables: Tables) -> alt.VConcatChart | None:
    """IoU, ECE and GED over the network evaluations an image, a colour a sampler, a shape a size of the ensemble."""
    rows = by_evaluations(tables)
    if rows.empty or rows["steps"].nunique() < 2:
        return None
    samplers = sorted(set(rows["sampler"]))
    sizes = sorted(set(rows["ensemble"]))
    colour = alt.Color("sampler:N", title="sampler", scale=alt.Scale(domain=samplers, range=COLOURS[: len(samplers)]))
    shape = alt.Shape(
        "ensemble:O",
        title="samples",
        scale=alt.Scale(domain=sizes, range=[SHAPES[k % len(SHAPES)] for k in range(len(sizes))]),
    )
    legend = alt.Legend(symbolType="circle", symbolStrokeColor="#555", symbolStrokeWidth=1)
    fill = alt.Fill(
        "ends:N", title=None, legend=legend, scale=alt.Scale(domain=["all steps", "settled"], range=["#fff", "#999"])
    )
    tooltip = ["sampler", "steps", "ensemble", "settled", "seeds", alt.Tooltip("evaluations", format=",.0f")]
    tooltip += [alt.Tooltip(metric, format=".4f") for metric in METRICS]
    rows = rows.assign(iou=100 * rows["iou"], ends=np.where(rows["settled"] > 0, "settled", "all steps"))
    panels = []
    for metric, title in METRICS.items():
        some = rows.dropna(subset=[metric])
        if some.empty:
            continue
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
