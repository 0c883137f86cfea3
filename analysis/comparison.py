"""Configurations against a baseline: means over seeds and images with intervals, and tests of the differences."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from analysis import group_dice, learning
from analysis.configurations import ConfigurationNames, list_e1
from analysis.frames import GROUP, PLACE
from analysis.learning import iou_curves, measure_learning
from analysis.measurements import Pair, Sample, collect, compare, estimate_differences
from analysis.statistics import holm, verdict
from analysis.tables import Tables
from diffseg.errors import UserError
from diffseg.evaluation.registry import DISTANCE, METRICS
from studies.store.classes import ALL

NAMES = {
    **{name: metric.title for name, metric in METRICS.items()},
    group_dice.NAME: group_dice.TITLE,
    **learning.NAMES,
}
LARGER_IS_BETTER = {name: bool(metric.larger_is_better) for name, metric in METRICS.items()} | {
    group_dice.NAME: True,
    "area": True,
    "steps": False,
}
LISTED = {name for name in NAMES if name not in METRICS or METRICS[name].listed}  # shown without being asked for
SHOWN_OF_CLASSES = ("iou", "dice", group_dice.NAME)  # those of them that are shown of single classes
TESTED = ("low", "high", "p", "effect", "verdict")  # the columns of a tested difference


def compare_to_baseline(
    tables: Tables, named: ConfigurationNames, metrics: Collection[str] = tuple(NAMES)
) -> pd.DataFrame:
    """Return `compare_configurations`, with E1 as the baseline where studies name none.

    Raises UserError if there is nothing to compare yet.
    """
    given = bool(named.baselines & set(tables.trials["trial"]))  # those of searches are scored on held-out images
    if not given:
        named = replace(named, baselines=list_e1(tables.trials, list(tables.ledgers)))
    found = compare_configurations(tables, named, metrics)
    if found.empty or (not given and found["baseline"].all()):
        name = tables.ledgers[0].study
        raise UserError(
            f"{name} has no complete trial of a baseline on the test images to compare with, and none of both E1 and E2: "
            f"`diffseg status {name}` prints how far it is; a search compares what it confirms (--confirm KxN), a study file "
            "names its baseline's variant"
        )
    return found


def compare_configurations(
    tables: Tables, named: ConfigurationNames, metrics: Collection[str] = tuple(NAMES)
) -> pd.DataFrame:
    """Return every configuration of E1 and E2 against the baseline of its data set and network, a row a class and metric.

    Where the baseline's name stands for trials of both experiments, those of E2 are the baseline.

    Columns: those of GROUP, configuration (its name), baseline (bool), class ("all", then each of several), metric (one of
    NAMES), unit (of distances), seeds, images (the number that counts), left_out (images that were measured but are NaN for a
    seed), units (patients, volumes or single images), mean, low, high (of the mean, 95 %), and, paired by seed and image, pairs
    (images), difference, difference_low, difference_high, effect, p (adjusted by Holm among the data set's configurations, for each
    class and metric) and verdict. images, left_out and units are 0 for metrics of the whole trial; of the Dice of patients or
    volumes, images are those. Seeds that did not reach the IoU up to which steps are counted count with all their steps.
    Empty without a baseline.
    """
    trials = tables.trials[tables.trials["experiment"].isin(["e1", "e2"])]
    curves = dict(iou_curves(tables))
    rows = []
    for (dataset, _), alike in trials.groupby(["dataset", "network"], sort=False):
        base = alike[alike["trial"].isin(named.baselines)]
        if base.empty:
            continue
        base = base[base["experiment"] == base["experiment"].max()]
        alike = pd.concat([base, alike.drop(base.index)])  # the baseline comes first
        alike = alike.assign(configuration=_label(alike, named))
        learnt = measure_learning(curves, alike, base)
        for name, metric in product((ALL, *tables.classes.get(dataset, [])), (one for one in NAMES if one in metrics)):
            if metric not in learnt:
                sample = partial(tables.measurements.sample, metric=metric, of_class=name)
            elif name == ALL:
                sample = partial(collect, values=learnt[metric], groups={})
            else:
                continue
            row_of = {"class": name, "unit": _unit(metric, base)}
            rows += [row | row_of for row in _compare_metric(alike, base, metric, sample)]
    return pd.DataFrame(rows)


def _unit(metric: str, trials: pd.DataFrame) -> str:
    """Return the unit of a distance in these trials, mm or px; "" for other metrics."""
    if metric not in METRICS or METRICS[metric].unit != DISTANCE:
        return ""
    known = trials["distance_unit"].dropna() if "distance_unit" in trials else pd.Series(dtype=object)
    return " or ".join(sorted(set(known)))


def _label(trials: pd.DataFrame, named: ConfigurationNames) -> pd.Series:
    """Return what each trial's configuration is called, with the experiment where both have a configuration of one name."""
    labels = trials["trial"].map(named.labels).astype(object).fillna(trials["series"])
    if (trials["experiment"].groupby(labels).nunique() == 1).all():
        return labels
    experiments = trials["experiment"].str.upper()
    alone = trials["series"].groupby(trials["experiment"]).transform("nunique") == 1
    return experiments.where(alone, experiments + " " + labels)


def select_shown(rows: Sequence[dict[str, Any]], of_class: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of `compare_configurations` that a table shows, or those of a class if one is asked for.

    A table shows LISTED of all classes at once, and SHOWN_OF_CLASSES of each class.
    """
    if of_class is not None:
        return [row for row in rows if row["class"] == of_class]
    return [row for row in rows if row["metric"] in (LISTED if row["class"] == ALL else SHOWN_OF_CLASSES)]


def against_e1(table1: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Return Table 1 (`Tables.table1`) with tests of E2 against E1, paired by seed and image.

    For iou, ece and brier it gets the columns of TESTED, such as iou_low, and the paired difference in iou_difference. p is
    adjusted by Holm among the rows of a data set and class.
    """
    return _test(table1, pairs_with_e1(table1, tables), tables)


def compare_table1(found: Tables, shown: Tables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return Table 1 with tests (`against_e1`) of all trials, and its rows of the variants that are shown.

    The tests count all rows, so that a variant is not tested as if it had been the only one because it is the best.
    """
    table1 = found.table1()
    if table1.empty:
        return table1, table1
    tested = against_e1(table1, found)
    key = [*PLACE, "variant_e1", "variant_e2", "class"]
    rows = shown.table1()
    return tested, tested.merge(rows[key], on=key) if len(rows) else tested[:0]


def pairs_with_e1(table1: pd.DataFrame, tables: Tables) -> list[Pair]:
    """Return the trials of E1 and of E2 for each row of Table 1; none where the row lacks one."""
    trials, pairs = tables.trials, []
    for row in table1.to_dict("records"):
        alike = trials[(trials[PLACE] == [row[name] for name in PLACE]).all(axis=1)]
        keys = (alike["experiment"] + " " + alike["variant"]).to_numpy()
        ours, theirs = (alike[keys == f"{name} {row[f'variant_{name}']}"] for name in ("e1", "e2"))
        pairs.append((ours, theirs))
    return pairs


def against_first(studies: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Return studies side by side (`segmentations.tabulate_studies`) with tests against the first one, in the same columns."""
    trials, pairs = tables.trials, []
    first: dict[tuple[str, ...], pd.DataFrame] = {}
    chosen = [*PLACE, "experiment", "variant"]
    for row in studies.to_dict("records"):
        ours = trials[(trials[chosen] == [row[name] for name in chosen]).all(axis=1)]
        key = (row["dataset"], row["experiment"], row["network"])
        is_first = row["study"] == tables.ledgers[0].study
        pairs.append((first.get(key, ours[:0]), ours[:0] if is_first else ours))
        if is_first:
            first[key] = ours
    return _test(studies, pairs, tables)


def _test(rows: pd.DataFrame, pairs: list[Pair], tables: Tables) -> pd.DataFrame:
    """Return the rows of a table with tests of theirs against ours, one pair of trials for each row."""
    rows = rows.reset_index(drop=True)
    classes = rows["class"] if "class" in rows else pd.Series(ALL, rows.index)
    for metric in ("iou", "ece", "brier"):
        frame = compare_pairs(tables, pairs, metric, rows["dataset"], classes)
        column = f"{metric}_difference"
        rows[column] = frame["mean"].fillna(rows[column]) if column in rows else frame["mean"]
        rows = rows.join(frame[list(TESTED)].add_prefix(f"{metric}_"))
    return rows


def compare_pairs(
    tables: Tables, pairs: list[Pair], metric: str, datasets: pd.Series, classes: pd.Series
) -> pd.DataFrame:
    """Return the tested difference of theirs to ours for each pair of trials.

    Columns: mean (of the difference), low, high, p (adjusted by Holm among the pairs of a data set and class), effect and
    verdict; None where one of both is missing. datasets, classes: of each pair.
    """
    found = estimate_differences(tables, pairs, metric, classes.tolist())
    frame = pd.DataFrame([asdict(one) for one in found], columns=["mean", *TESTED[:-1]])
    frame["p"] = frame.groupby([datasets, classes])["p"].transform(lambda p: holm(p.to_numpy()))
    frame["verdict"] = [
        None if np.isnan(mean) else verdict(mean, p, LARGER_IS_BETTER[metric])
        for mean, p in zip(frame["mean"], frame["p"], strict=True)
    ]
    return frame


def _compare_metric(
    alike: pd.DataFrame, base: pd.DataFrame, metric: str, sample: Callable[[pd.DataFrame], Sample | None]
) -> list[dict[str, Any]]:
    """Return the rows of one metric: all configurations of a data set and network."""
    ours, rows = sample(base), []
    if ours is None:
        return []
    for key, group in alike.groupby(GROUP, sort=False):
        theirs = sample(group)
        if theirs is None:
            continue
        whole = theirs.estimate
        row: dict[str, Any] = dict(zip(GROUP, key, strict=True)) | {
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
        row |= {"p": p, "verdict": verdict(row["difference"], p, LARGER_IS_BETTER[metric])}
    return rows


def _difference(theirs: Sample, ours: Sample) -> dict[str, Any]:
    """Return the columns of the difference of a configuration to the baseline."""
    found, pairs = compare(theirs, ours)
    return {
        "pairs": pairs.images if pairs else 0,
        "difference": found.mean,
        "difference_low": found.low,
        "difference_high": found.high,
        "effect": found.effect,
        "p": found.p,
    }
