"""Summaries of segmentations over seeds: Table 1 of the paper, and studies side by side."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.frames import PLACE
from studies.store.classes import ALL

if TYPE_CHECKING:
    from analysis.tables import Tables

PAIR_COLUMNS = [*PLACE, "images", "seeds"] + [
    f"{name}_{experiment}"
    for experiment in ("e1", "e2")
    for name in ("variant", "iou", "iou_sd", "ece", "ece_sd", "seeds")
]
IOUS = re.compile(
    r"(paper_)?iou(_sd)?(_e[12])?|iou_(difference|low|high)"
)  # the columns of tables here in units of the IoU


def tabulate_e1_and_e2(tables: Tables) -> pd.DataFrame:
    """Return Table 1 of the paper: IoU and ECE of E1 and of E2, and their differences, all as fractions.

    A row for every study, data set, network and pair of variants, followed by one for each class where masks have several.
    Columns: study, dataset, network, class, images, seeds (those that both have, over which the means are; 0 if they share none
    and the means are over all), then for each of e1 and e2 `variant_e1`, `iou_e1`, `iou_sd_e1`, `ece_e1`,
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
    rows = []
    for place, own in trials.groupby(PLACE):
        e1, e2 = (dict(list(own[own["experiment"] == name].groupby("variant", sort=False))) for name in ("e1", "e2"))
        for names in _list_pairs(list(e1), list(e2)):
            pair = [found.get(name) for found, name in zip((e1, e2), names, strict=True)]
            rows.append(dict(zip(PLACE, place, strict=True)) | _average_pair(names, pair))
    found = pd.DataFrame(rows, columns=PAIR_COLUMNS)
    found["images"] = found["images"].astype(int)
    for metric in ("iou", "ece"):
        found[f"{metric}_difference"] = found[f"{metric}_e2"] - found[f"{metric}_e1"]
    return found


def _list_pairs(e1: list[str], e2: list[str]) -> list[tuple[str | None, str | None]]:
    """Return which variants of E1 and of E2 are compared: all, but names that both have only with themselves.

    What differs between two such variants, a threshold for example, is not what differs between E1 and E2.
    """
    if not e1 or not e2:
        return [(name, None) for name in e1] + [(None, name) for name in e2]
    both = set(e1) & set(e2)
    return [(one, other) for one in e1 for other in e2 if one == other or not {one, other} <= both]


def _average_pair(names: tuple[str | None, str | None], pair: list[pd.DataFrame | None]) -> dict[str, Any]:
    """Return the means of a pair of variants over the seeds that both have, so that they differ by what is tested.

    If they share none, or one is missing, the means are over all seeds.
    """
    known = [one for one in pair if one is not None]
    shared = set.intersection(*(set(one["seed"]) for one in known))
    row: dict[str, Any] = {"images": max(one["test_images"].max() for one in known), "seeds": len(shared)}
    for experiment, name, one in zip(("e1", "e2"), names, pair, strict=True):
        row |= {f"variant_{experiment}": name}
        if one is None:
            continue
        counted = one[one["seed"].isin(shared)] if shared else one
        for metric in ("iou", "ece"):
            row |= {
                f"{metric}_{experiment}": counted[metric].mean(),
                f"{metric}_sd_{experiment}": counted[metric].std(),
            }
        row |= {f"seeds_{experiment}": one["seed"].nunique()}
    return row


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
