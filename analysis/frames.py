"""What all data frames of the analysis share: the columns of a series of trials, their units, and names that are refused."""

from collections.abc import Collection, Iterable
from typing import Any

import pandas as pd

from diffseg.errors import UserError
from diffseg.evaluation.registry import MEASURES, METRICS
from diffseg.suggestions import suggest
from studies.store.tables import SCHEMAS

GROUP = ["study", "dataset", "experiment", "network", "variant", "series"]  # trials that differ in their seed only
PLACE = ["study", "dataset", "network"]  # what E1 and E2 are compared within
STATISTICS = ("", "_sd", "_e1", "_e2", "_sd_e1", "_sd_e2", "_difference", "_low", "_high")  # of a metric, in its unit
UNITS = {
    **{f"{name}{ending}": metric.unit for name, metric in MEASURES.items() for ending in STATISTICS},
    "seconds": "s", "train_seconds": "s", "evaluate_seconds": "s", "gpu_seconds": "s", "hours": "h", "peak_memory_bytes": "bytes",
    "mask_error": "squared, of masks in ±1", "dice_error": "fraction", "cross_entropy": "nats",
    "log_snr": "natural logarithm", "t": "fraction", "share": "fraction", "confidence": "fraction", "accuracy": "fraction",
}  # fmt: skip


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as dictionaries, with None for what is missing or NaN."""
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows


def with_units(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with `attrs["units"]`: the unit of each column that has one. Shares are fractions, never percent."""
    frame.attrs["units"] = {name: UNITS[name] for name in frame.columns if name in UNITS}
    return frame


def check_metric(name: str, known: Collection[str] = METRICS) -> None:
    """Raise UserError, with the nearest names, if there is no such metric."""
    if name not in known:
        raise UserError(f"there is no metric '{name}': {suggest(name, known)}")


def check_table(name: str, columns: Iterable[str] = ()) -> None:
    """Raise UserError, with the nearest names, if the ledger has no such table, or if the table has no such column.

    Columns of `trials` are not checked, since settings differ between studies.
    """
    if name not in SCHEMAS:
        raise UserError(f"the ledger has no table '{name}': {suggest(name, SCHEMAS)}")
    for column in () if name == "trials" else columns:
        if column not in SCHEMAS[name].names:
            raise UserError(f"the table {name} has no column '{column}': {suggest(column, SCHEMAS[name].names)}")
