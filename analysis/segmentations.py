"""Summaries of segmentations over seeds: Table 1 of the paper, and studies side by side."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd

from studies.store.classes import ALL

if TYPE_CHECKING:
    from analysis.tables import Tables

IOUS = re.compile(
    r"(paper_)?iou(_sd)?(_e[12])?|iou_(difference|low|high)"
)  # the columns of tables here in units of the IoU


def tabulate_e1_and_e2(tables: Tables) -> pd.DataFrame:
    """Return Table 1 of the paper: IoU and ECE of E1 and of E2, and their differences, all as fractions.

    A row for every study, data set, network and variant, followed by one for each class where masks have several. Columns:
    study, dataset, network, class, images, then for each of e1 and e2 `variant_e1`, `iou_e1`, `iou_sd_e1`, `ece_e1`,
    `ece_sd_e1`, `seeds_e1`, …, and `iou_difference`, `ece_difference` (E2 − E1). Means and sample standard deviations are over
    seeds; `comparison.against_e1` tests the differences.
    """
    segmented = tables.trials[tables.trials["experiment"].isin(["e1", "e2"])]
    if segmented.empty:
        return pd.DataFrame()
    whole = _pair(segmented)
    key = ["study", "dataset", "network", "variant_e1", "variant_e2"]
    places = whole[key].assign(place=range(len(whole)))
    parts = [whole.assign(**{"class": ALL}, place=places["place"])]
    for name in dict.fromkeys(name for names in tables.classes.values() for name in names):
        if len(own := _measure_class(tables, segmented, name)):
            parts.append(_pair(own).merge(places, on=key).assign(**{"class": name}))
    rows = pd.concat(parts).sort_values("place", kind="stable", ignore_index=True)
    first = ["study", "dataset", "network", "class", "images"]
    return rows[[*first, *(name for name in rows if name not in (*first, "place"))]]


def _pair(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each pair of a variant of E1 and one of E2 of the same study, data set and network."""
    means = _average(trials, ["experiment", "study", "dataset", "network", "variant"])
    e1, e2 = (means[means["experiment"] == name].drop(columns="experiment") for name in ("e1", "e2"))
    rows = e1.merge(e2, on=["study", "dataset", "network"], how="outer", suffixes=("_e1", "_e2"))
    rows["images"] = rows["images_e1"].fillna(rows["images_e2"]).astype(int)
    rows["iou_difference"], rows["ece_difference"] = rows["iou_e2"] - rows["iou_e1"], rows["ece_e2"] - rows["ece_e1"]
    return rows.drop(columns=["images_e1", "images_e2"])


def _measure_class(tables: Tables, trials: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the trials that have measured a class, with its IoU and ECE in place of those of all classes."""
    keys = pd.MultiIndex.from_frame(trials[["study", "trial"]])
    values = {metric: tables.measurements.means(metric, name).reindex(keys).to_numpy() for metric in ("iou", "ece")}
    return trials.assign(**values).dropna(subset=["iou"])


def tabulate_studies(tables: Tables) -> pd.DataFrame:
    """Return the studies side by side: for each data set, experiment (E1 or E2) and network, each study's best variant by IoU.

    Columns: dataset, experiment, network, study, variant, trials, seeds, iou, iou_sd, ece, ece_sd (over seeds), hours,
    and iou_difference and ece_difference of the means to the first study's. `comparison.against_first` tests the differences.
    """
    measured = tables.trials.dropna(subset=["iou"])
    key = ["dataset", "experiment", "network"]
    if measured.empty:
        return pd.DataFrame()
    means = _average(measured, ["study", *key, "variant"]).drop(columns="images")
    best = means.loc[means.groupby(["study", *key])["iou"].idxmax()]
    spent = measured.groupby(["study", *key]).agg(trials=("trial", "size"), hours=("seconds", "sum")).reset_index()
    best = best.merge(spent.assign(hours=spent["hours"] / 3600), on=["study", *key])
    first = best[best["study"] == tables.ledgers[0].study].set_index(key)[["iou", "ece"]]
    base = best[key].merge(first, left_on=key, right_index=True, how="left")
    best["iou_difference"], best["ece_difference"] = best["iou"] - base["iou"], best["ece"] - base["ece"]
    order = {ledger.study: place for place, ledger in enumerate(tables.ledgers)}
    return best.sort_values([*key, "study"], key=lambda column: column.map(order) if column.name == "study" else column)


def _average(trials: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Return means and sample standard deviations of IoU and ECE, with the numbers of seeds and of test images."""
    return (
        trials.groupby(key, sort=False)
        .agg(
            iou=("iou", "mean"),
            iou_sd=("iou", "std"),
            ece=("ece", "mean"),
            ece_sd=("ece", "std"),
            seeds=("seed", "nunique"),
            images=("test_images", "max"),
        )
        .reset_index()
    )


def in_percent(table: pd.DataFrame) -> pd.DataFrame:
    """Return Table 1, or studies side by side, with all IoUs, their deviations, differences and limits in percent."""
    return table.assign(**{name: 100 * table[name] for name in table if IOUS.fullmatch(name)})
