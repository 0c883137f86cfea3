"""Decisions with a guarantee (inference.risk): the thresholds that were chosen, and the risk on the test images."""

import altair as alt
import pandas as pd

from analysis.frames import GROUP
from analysis.statistics import estimate
from analysis.style import encode_series, facet_by_dataset
from analysis.tables import Tables

LEVEL, THRESHOLD = "config_inference_risk_level", "risk_threshold"
IMAGES = ("calibration", "test")  # of the table `risks`
CHOSEN, LIMIT = "chosen", "level"  # what else the chart's rows are of
COLUMNS = [*GROUP, "seeds", "level", "threshold", "chosen_by", "units", "risk", "risk_low", "risk_high"]


def tabulate_risks(tables: Tables) -> pd.DataFrame:
    """Return what the thresholds chosen by `inference.risk` led to on the test images.

    Columns: those of GROUP, seeds, level, threshold (mean over seeds), chosen_by (patients, or else images, by whom it was
    chosen), units (those of the test images), and risk, their mean loss over seeds, with the limits risk_low and risk_high of
    its 95 % interval over them and the seeds.
    """
    limited = _select_limited(tables)
    if limited.empty:
        return pd.DataFrame(columns=COLUMNS)
    rows = tables.frame("risks")
    rows = rows[(rows["images"] == "test") & rows["unit"].notna()]
    found = []
    for group, own in rows.groupby(GROUP, sort=False):
        losses = own.pivot(index="seed", columns="unit", values="risk")
        trials = limited.merge(own[["study", "trial"]].drop_duplicates(), on=["study", "trial"])
        risk = estimate(losses.to_numpy()).within(0, 1)
        row = dict(zip(GROUP, group, strict=True)) | {
            "seeds": len(losses),
            "level": float(trials[LEVEL].iloc[0]),
            "threshold": float(trials[THRESHOLD].mean()),
            "chosen_by": int(trials["risk_units"].min()),
            "units": losses.shape[1],
            "risk": risk.mean,
            "risk_low": risk.low,
            "risk_high": risk.high,
        }
        found.append(row)
    return pd.DataFrame(found, columns=COLUMNS)


def controlled_risks(tables: Tables) -> alt.FacetChart | None:
    """Draw the risk over the threshold, on the images that chose it and on the test images, with the level and the choices."""
    trials = _select_limited(tables)
    if trials.empty:
        return None
    rows = tables.frame("risks")
    means = rows[rows["unit"].isna() & (rows["threshold"] >= 0)]
    curves = means.groupby([*GROUP, "images", "threshold"], sort=False)["risk"].mean().reset_index()
    curves = curves[(curves["threshold"] * 1000).round() % 10 == 0]  # a page holds all points
    chosen = trials[["dataset", "series", "seed", "risk"]].assign(threshold=trials[THRESHOLD], images=CHOSEN)
    levels = trials[["dataset"]].assign(level=trials[LEVEL].astype(float), images=LIMIT).drop_duplicates()
    look = encode_series(tables, curves["series"])
    drawn = pd.concat([curves, chosen, levels])
    base = alt.Chart(drawn).encode(
        x=alt.X("threshold:Q", title="threshold of the foreground's probability", scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("risk:Q", title="mean loss of a patient"),
        color=look["color"],
        tooltip=["dataset", "series", "images", "threshold", alt.Tooltip("risk", format=".4f")],
    )
    dash = alt.StrokeDash("images:N", title="images", scale=alt.Scale(domain=[*IMAGES], range=[[4, 3], [1, 0]]))
    lines = base.transform_filter(alt.FieldOneOfPredicate("images", [*IMAGES])).mark_line().encode(strokeDash=dash)
    points = base.transform_filter(alt.datum.images == CHOSEN).mark_point(filled=True, size=60, opacity=1)
    limits = alt.Chart(drawn).transform_filter(alt.datum.images == LIMIT).encode(y="level:Q")
    limits = limits.mark_rule(color="#888", strokeDash=[2, 2])
    return facet_by_dataset(alt.layer(lines, limits, points.encode(shape=look["shape"])), curves)


def _select_limited(tables: Tables) -> pd.DataFrame:
    """Return the trials with a limit of the risk."""
    trials = tables.trials
    return trials[trials[THRESHOLD].notna()] if THRESHOLD in trials else trials.iloc[:0]
