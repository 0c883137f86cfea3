"""Configurations against a baseline: means over seeds and images, with intervals, and what the differences come to."""

from dataclasses import asdict, dataclass

import altair as alt
import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from analysis.charts import COLOURS
from analysis.measurements import WHOLE, Measurements, Sample, compare, estimates, measure
from analysis.statistics import LEVEL, area_under_curve, holm, steps_to, verdict
from analysis.tables import GROUP, Tables
from diffseg.errors import UserError
from studies.search.proposals import read_proposals
from studies.store.ledger import Ledger
from studies.store.tables import METRICS

SHARE = 0.95  # of the baseline's final IoU, whose reaching is timed
TITLES = {
    "iou": "IoU",
    "dice": "Dice",
    "brier": "Brier",
    "iou_raters": "IoU, mean over raters",
    "dice_raters": "Dice, mean over raters",
    "ged_unbiased": "GED, unbiased",
    "hm_iou": "HM-IoU",
}
NAMES = {
    **{metric: TITLES.get(metric, metric.upper()) for metric in METRICS},
    "area": "area under the IoU's learning curve",
    "steps": f"steps to {SHARE:.0%} of the baseline's final IoU",
}


PLACE = ["study", "dataset", "network"]
TESTED = ("low", "high", "p", "effect", "verdict")  # of a difference


@dataclass(frozen=True)
class Names:
    """What configurations are called, by the names of their trials, and which of them the others are compared with."""

    labels: dict[str, str]
    baselines: set[str]


def names(ledgers: list[Ledger]) -> Names:
    """A study's variants, and the one that it names as its baseline; a search's proposals, and the first of them."""
    labels, against = {}, set()
    for ledger in ledgers:
        definition = ledger.definition() or {}
        variants, found = definition.get("variants") or {}, read_proposals(ledger)
        labels |= variants | {one.trial: f"{one.number}: {one.label}" for one in found}
        against |= {trial for trial, variant in variants.items() if variant == definition.get("baseline")}
        against |= {one.trial for one in found if one.number == 0 and one.trial}
    return Names(labels, against)


def compared(tables: Tables, named: Names) -> pd.DataFrame:
    """Every configuration of E1 and E2 against the baseline of its data set and network, a row a metric.

    Columns: those of GROUP, configuration (its name), baseline (bool), metric, seeds, images (that count), left_out (images
    that were measured but are NaN for a seed), units (patients, volumes or single images; these three are 0 of what is not of
    single images), mean, low, high (of the mean, 95 %), and, paired by seed and image, pairs (images), difference,
    difference_low, difference_high, effect, p (adjusted by Holm among the data set's configurations) and verdict. Seeds that
    did not reach the IoU that is timed count with all their steps. Empty without a baseline.
    """
    trials = tables.trials[tables.trials["experiment"].isin(["e1", "e2"])]
    rows = []
    for _, alike in trials.groupby(["dataset", "network"], sort=False):
        base = alike[alike["trial"].isin(named.baselines)]
        if base.empty:
            continue
        alike = pd.concat([base, alike.drop(base.index)])  # the baseline comes first
        alike = alike.assign(configuration=alike["trial"].map(named.labels).fillna(alike["series"]))
        measured = measure(tables, alike)
        _add_curves(measured, tables, base)
        for metric in NAMES:
            rows += _rows(alike, base, metric, measured)
    return pd.DataFrame(rows)


def against_e1(table1: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Table 1 (`tables.table1`) with tests of E2 against E1, paired by seed and image: for iou (%) and ece the columns of
    TESTED, such as iou_low, and the difference that they are of; p is adjusted by Holm among the rows of a data set."""
    return _tested(table1, pairs_with_e1(table1, tables), tables)


def pairs_with_e1(table1: pd.DataFrame, tables: Tables) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """The trials of E1 and of E2 of each row of Table 1; none where the row lacks one."""
    trials, pairs = tables.trials, []
    for row in table1.to_dict("records"):
        alike = trials[(trials[PLACE] == [row[name] for name in PLACE]).all(axis=1)]
        keys = (alike["experiment"] + " " + alike["variant"]).to_numpy()
        ours, theirs = (alike[keys == f"{name} {row[f'variant_{name}']}"] for name in ("e1", "e2"))
        pairs.append((ours, theirs))
    return pairs


def against_first(studies: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Studies side by side (`tables.studies`) with tests against the first, in the same columns."""
    trials, first, pairs = tables.trials, {}, []
    chosen = [*PLACE, "experiment", "variant"]
    for row in studies.to_dict("records"):
        ours = trials[(trials[chosen] == [row[name] for name in chosen]).all(axis=1)]
        key = (row["dataset"], row["experiment"], row["network"])
        is_first = row["study"] == tables.ledgers[0].study
        pairs.append([first.get(key, ours[:0]), ours[:0] if is_first else ours])
        if is_first:
            first[key] = ours
    return _tested(studies, pairs, tables)


def differences(compared: pd.DataFrame) -> alt.ConcatChart | None:
    """Every configuration's difference to the baseline with its interval, a panel a metric and data set; None without any."""
    if compared.empty or "difference" not in compared:
        return None
    rows = compared[~compared["baseline"] & compared["difference_low"].notna()]
    rows = rows.assign(significant=rows["p"] < LEVEL)
    panels = []
    for metric, group in rows.groupby("metric", sort=False):
        base = alt.Chart().encode(y=alt.Y("configuration:N", title=None, sort=None, axis=alt.Axis(labelLimit=320)))
        zero = alt.Chart().mark_rule(color="#666").encode(x=alt.datum(0))
        bars = base.mark_rule(strokeWidth=2, color=COLOURS[0])
        bars = bars.encode(x=alt.X("difference_low:Q", title=f"difference in {NAMES[metric]}"), x2="difference_high:Q")
        points = base.mark_point(size=70, color=COLOURS[0], strokeWidth=2).encode(
            x="difference:Q",
            fill=alt.Fill(
                "significant:N", legend=None, scale=alt.Scale(domain=[True, False], range=[COLOURS[0], "#fff"])
            ),
            tooltip=["dataset", "configuration", "seeds", alt.Tooltip("difference", format=".4g"), "verdict"],
        )
        layers = alt.layer(zero, bars, points, data=group).properties(width=210)
        panels.append(layers.facet(facet=alt.Facet("dataset:N", title=None), columns=3))
    return alt.concat(*panels, columns=max(1, 3 // rows["dataset"].nunique())) if panels else None


def required(tables: Tables, ledgers: list[Ledger]) -> pd.DataFrame:
    """The comparison. Raises UserError if there is nothing to compare yet."""
    found = compared(tables, names(ledgers))
    if found.empty:
        name = ledgers[0].study
        raise UserError(
            f"{name} has no complete trial of a baseline on the test images to compare with: `diffseg status {name}` tells "
            "how far it is; a search compares what it confirms (--confirm KxN), a study file names its baseline's variant"
        )
    return found


def _tested(rows: pd.DataFrame, pairs: list, tables: Tables) -> pd.DataFrame:
    """Rows of a table with the tests of theirs against ours, one pair of trials a row."""
    rows = rows.reset_index(drop=True)
    for metric, unit in (("iou", 100), ("ece", 1)):
        found = estimates(tables, pairs, metric)
        frame = pd.DataFrame([asdict(one) for one in found], columns=["mean", *TESTED[:-1]])
        frame[["mean", "low", "high"]] *= unit
        frame["p"] = frame.groupby(rows["dataset"])["p"].transform(lambda p: holm(p.to_numpy()))
        frame["verdict"] = [
            None if np.isnan(mean) else verdict(mean, p, METRICS[metric])
            for mean, p in zip(frame["mean"], frame["p"], strict=True)
        ]
        column = f"{metric}_difference"
        rows[column] = frame["mean"].fillna(rows[column])
        rows = rows.join(frame[list(TESTED)].add_prefix(f"{metric}_"))
    return rows


def _rows(alike: pd.DataFrame, base: pd.DataFrame, metric: str, measured: Measurements) -> list[dict]:
    """One metric of all configurations of a data set and network."""
    ours, rows = measured.sample(base, metric), []
    if ours is None:
        return []
    for key, group in alike.groupby(GROUP, sort=False):
        theirs = measured.sample(group, metric)
        if theirs is None:
            continue
        whole = theirs.estimate
        row = dict(zip(GROUP, key, strict=True)) | {
            "configuration": group["configuration"].iloc[0],
            "baseline": bool(group["trial"].isin(base["trial"]).all()),
            "metric": metric,
            "seeds": len(theirs.values),
            "images": theirs.images,
            "left_out": theirs.measured - theirs.images,
            "units": theirs.units,
            "mean": whole.mean,
            "low": whole.low,
            "high": whole.high,
        }
        rows.append(row if row["baseline"] else row | _difference(theirs, ours))
    others = [row for row in rows if not row["baseline"]]
    for row, p in zip(others, holm(np.array([row["p"] for row in others])), strict=True):
        row |= {"p": p, "verdict": verdict(row["difference"], p, METRICS.get(metric, metric == "area"))}
    return rows


def _difference(theirs: Sample, ours: Sample) -> dict:
    found, pairs = compare(theirs, ours)
    return {
        "pairs": pairs.images if pairs else 0,
        "difference": found.mean,
        "difference_low": found.low,
        "difference_high": found.high,
        "effect": found.effect,
        "p": found.p,
    }


def _add_curves(measured: Measurements, tables: Tables, base: pd.DataFrame) -> None:
    """Add the area and the steps of the trials' learning curves; the steps are those to SHARE of the baseline's end."""
    curves = {key: curve for key, curve in _curves(tables) if key in measured.values}
    ours = [curves[key] for key in zip(base["study"], base["trial"], strict=True) if key in curves]
    last = [curve["value"].iloc[-1] for curve in ours]
    for key, curve in curves.items() if last else ():
        steps, iou = curve["step"].to_numpy(), curve["value"].to_numpy()
        reached = min(steps_to(SHARE * np.mean(last), steps, iou), steps[-1])
        found = {"area": area_under_curve(steps, iou), "steps": float(reached)}
        measured.values[key] |= {name: pd.Series([value], [WHOLE]) for name, value in found.items()}


def _curves(tables: Tables) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """The learning curves of the IoU, of two points or more, by (study, trial)."""
    rows = tables.frame("curves", ["step", "metric", "value"], ds.field("metric") == "iou").sort_values("step")
    return [(key, curve) for key, curve in rows.groupby(["study", "trial"], sort=False) if len(curve) > 1]
