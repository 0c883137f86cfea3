"""The learning curves of the IoU as metrics of whole trials: their area, and the steps until they reach the baseline's end."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from analysis.measurements import WHOLE, Key, Values
from analysis.statistics import area_under_curve, steps_to
from analysis.tables import Tables

SHARE = 0.95  # of the baseline's final IoU, up to which the steps are counted
NAMES = {
    "area": "area under the IoU's learning curve",
    "steps": f"steps to {SHARE:.0%} of the baseline's final IoU",
}


def measure_learning(curves: dict[Key, pd.DataFrame], alike: pd.DataFrame, base: pd.DataFrame) -> dict[str, Values]:
    """Return the area and the steps of the trials' learning curves; steps are counted to SHARE of the baseline's last IoU."""
    found: dict[str, Values] = {"area": {}, "steps": {}}
    last = [curves[key]["value"].iloc[-1] for key in _keys(base) if key in curves]
    for key in _keys(alike):
        if last and key in curves:
            steps, iou = curves[key]["step"].to_numpy(), curves[key]["value"].to_numpy()
            reached = min(steps_to(SHARE * np.mean(last), steps, iou), steps[-1])
            found["area"][key] = pd.Series([area_under_curve(steps, iou)], [WHOLE])
            found["steps"][key] = pd.Series([float(reached)], [WHOLE])
    return found


def iou_curves(tables: Tables) -> Iterator[tuple[Key, pd.DataFrame]]:
    """Yield the learning curves of the IoU that have two points or more, with (study, trial)."""
    rows = tables.frame("curves", ["step", "metric", "value"], ds.field("metric") == "iou").sort_values("step")
    for key, curve in rows.groupby(["study", "trial"], sort=False):
        if len(curve) > 1:
            yield key, curve


def _keys(trials: pd.DataFrame) -> list[Key]:
    """Return (study, trial) of each trial."""
    return list(zip(trials["study"], trials["trial"], strict=True))
