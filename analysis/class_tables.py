"""Single classes and whole volumes as data frames: their segmentations with intervals, and which classes are confused."""

from typing import Any

import pandas as pd

from analysis import group_dice
from analysis.frames import GROUP
from analysis.tables import Tables
from studies.store.classes import ALL

METRICS = ("iou", "dice", group_dice.NAME, "ece")


def tabulate_classes(tables: Tables) -> pd.DataFrame:
    """Return what E1 and E2 reach in each class, and in whole patients or volumes, with 95 % intervals.

    Columns: those of GROUP, class ("all", then each of several), seeds, images, groups (patients or volumes; 0 if unknown),
    and for each of METRICS its mean, such as iou, and the limits iou_low and iou_high. dice_group is the Dice pooled over the
    images of a group, mean over groups.
    """
    rows = []
    trials = tables.trials[tables.trials["experiment"].isin(["e1", "e2"])]
    for key, alike in trials.groupby(GROUP, sort=False):
        group = dict(zip(GROUP, key, strict=True))
        rows += [
            group | found
            for name in (ALL, *tables.classes.get(group["dataset"], []))
            if (found := _measure(tables, alike, name))
        ]
    return pd.DataFrame(rows)


def count_confusions(tables: Tables) -> pd.DataFrame:
    """Return the pixels by their true and their predicted class, sums over images and seeds.

    Columns: those of GROUP, truth, predicted, count, and share, that of the true class. Empty unless masks have several
    exclusive classes.
    """
    rows = tables.frame("confusion", ["truth", "predicted", "count"])
    counts = rows.groupby([*GROUP, "truth", "predicted"], sort=False)["count"].sum().reset_index()
    return counts.assign(share=counts["count"] / counts.groupby([*GROUP, "truth"])["count"].transform("sum"))


def _measure(tables: Tables, trials: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return the columns of one class of trials that differ in their seed; none if they have not measured it."""
    samples = {metric: tables.measurements.sample(trials, metric, name) for metric in METRICS}
    if not samples["iou"]:
        return {}
    groups = samples[group_dice.NAME]
    row: dict[str, Any] = {"class": name, "seeds": len(samples["iou"].values), "images": samples["iou"].images}
    row["groups"] = groups.images if groups else 0
    for metric, sample in samples.items():
        if sample:
            found = sample.estimate
            row |= {metric: found.mean, f"{metric}_low": found.low, f"{metric}_high": found.high}
    return row
