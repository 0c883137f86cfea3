"""What all data frames of the analysis share: the columns of a series of trials, and rows for the terminal and the report."""

from typing import Any

import pandas as pd

GROUP = ["study", "dataset", "experiment", "network", "variant", "series"]  # trials that differ in their seed only


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as dictionaries, with None for what is missing or NaN."""
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows
