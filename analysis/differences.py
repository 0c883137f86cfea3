"""The differences of diffusion to feed-forward segmentation, E2 − E1, in any metric."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.comparison import compare_pairs, pairs_with_e1
from analysis.measurements import compare
from analysis.tables import Tables
from diffseg.evaluation.registry import METRICS

KEY = ["study", "dataset", "network", "class", "variant_e1", "variant_e2"]
COLUMNS = [*KEY, "metric", "unit", "e1", "e2", "difference", "low", "high", "p", "effect", "verdict", "seeds", "images"]


def tabulate_differences(tables: Tables, metrics: Sequence[str] = ("iou", "ece")) -> pd.DataFrame:
    """Return E2 − E1, a row for each metric and each row of Table 1 (`Tables.table1`) that has both.

    Columns: KEY, metric, unit, e1 and e2 (means over seeds and images), and, paired by seed and image, difference with its 95 %
    interval low to high, p (adjusted by Holm among the rows of a metric, data set and class), effect, verdict, and the numbers
    of seeds and images. images is 0 for a metric that images do not have. Empty without a pair that measured the metric.
    """
    table1 = tables.table1()
    if table1.empty:
        return pd.DataFrame(columns=COLUMNS)
    pairs, parts = pairs_with_e1(table1, tables), []
    for metric in metrics:
        tested = compare_pairs(tables, pairs, metric, table1["dataset"], table1["class"])
        described = pd.DataFrame(
            [_describe(tables, *pair, metric, name) for pair, name in zip(pairs, table1["class"], strict=True)]
        )
        own = pd.concat([table1[KEY], described, tested.rename(columns={"mean": "difference"})], axis=1)
        parts.append(own.assign(metric=metric, unit=METRICS[metric].unit))
    found = pd.concat(parts, ignore_index=True)[COLUMNS]
    return found.dropna(subset=["difference"]).reset_index(drop=True)


def _describe(tables: Tables, ours: pd.DataFrame, theirs: pd.DataFrame, metric: str, of_class: str) -> dict[str, float]:
    """Return the means of E1 (ours) and E2 (theirs), and the numbers of seeds and images that are paired."""
    one, other = (
        tables.measurements.sample(trials, metric, of_class) if len(trials) else None for trials in (ours, theirs)
    )
    if one is None or other is None:
        return {"e1": np.nan, "e2": np.nan, "seeds": 0, "images": 0}
    pairs = compare(other, one)[1]
    counts = {"seeds": len(pairs.values), "images": pairs.images} if pairs else {"seeds": 0, "images": 0}
    return {"e1": one.estimate.mean, "e2": other.estimate.mean, **counts}
