"""Tidy CSV files of a study: one for each view that a spreadsheet, R or another program may want."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis.class_tables import tabulate_classes
from analysis.comparison import compare_configurations
from analysis.configurations import name_configurations
from analysis.frames import GROUP
from analysis.results import Results
from analysis.writing import refuse_unwritable, replacing

KEY = [*GROUP, "seed", "trial", "role", "scored_on"]  # the first columns of every view of single trials
OF_MACHINES = ["config", "versions", "scaling", "labels", "left_out", "fingerprint"]  # columns of JSON
STARTS_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets run cells that begin with these

VIEWS: dict[str, Callable[[Results], pd.DataFrame]] = {
    "trials": lambda results: results.trials.drop(columns=OF_MACHINES),
    "failed": lambda results: results.failed.drop(columns=OF_MACHINES),
    "proposals": Results.proposals,
    "table1": Results.table1,
    "differences": Results.differences,
    "comparison": lambda results: compare_configurations(results, name_configurations(list(results.ledgers))),
    "classes": tabulate_classes,
    "images": lambda results: results.frame("images", of_class=None),
    "calibration": lambda results: results.calibration,
    "risks": lambda results: results.frame("risks"),
    "confusion": lambda results: results.frame("confusion"),
    "curves": Results.curves,
    "timesteps": lambda results: results.frame("timesteps", of_class=None),
    "fingerprints": Results.fingerprints,
}


def write_csv(results: Results, folder: Path) -> dict[Path, int]:
    """Write every view that has rows as `folder`/NAME.csv, in UTF-8; return the files with their numbers of rows.

    Numbers are exact, NaN is an empty cell. A text that a spreadsheet would run as a formula gets an apostrophe before it, as in
    the report's CSV files. Each file is replaced in one step. Raises UserError if one cannot be written.
    """
    written = {}
    for name, make in VIEWS.items():
        view = _with_key(make(results), results.trials)
        if view.empty:
            continue
        path = folder / f"{name}.csv"
        with refuse_unwritable(path):
            folder.mkdir(parents=True, exist_ok=True)
            write_view(view, path)
        written[path] = len(view)
    return written


def write_view(view: pd.DataFrame, path: Path) -> None:
    """Write a view in one step, as RFC 4180 says, whose line ends make pandas quote every kind of line end in a cell."""
    with replacing(path) as temporary:
        neutralise(view).to_csv(temporary, index=False, lineterminator="\r\n", encoding="utf-8")


def neutralise(view: pd.DataFrame) -> pd.DataFrame:
    """Return the view with an apostrophe before every text, column names included, that a spreadsheet would run."""
    tame = {name: view[name].map(_tame) for name in view if not pd.api.types.is_numeric_dtype(view[name])}
    return view.assign(**tame).rename(columns=_tame)


def _tame(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(STARTS_FORMULA) else value


def _with_key(view: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the view with the columns of KEY first, those that it lacks taken from its trials; others as they are."""
    if {"study", "trial", "series"} <= set(view):
        missing = [name for name in ("role", "scored_on") if name not in view]
        view = view.merge(trials[["study", "trial", *missing]], on=["study", "trial"], how="left") if missing else view
    first = [name for name in KEY if name in view]
    return view[[*first, *(name for name in view if name not in first)]]
