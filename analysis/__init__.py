"""Analysis: tables, charts and the report, made from the ledger alone; README.md is its manual.

    results = analysis.open("quickstart")
    results.best("ece")
    results.plot.mask_errors()

`results` is a Results (analysis/results.py), which a notebook shows as a summary.
"""

import os
from pathlib import Path

from analysis import tables
from analysis.results import Results
from studies.store.ledger import open_ledger

__all__ = ["Results", "load", "open"]


def open(*studies: str, store: str | Path | None = None) -> Results:
    """Return the results so far of one or more studies. Raises UserError if there are none yet.

    store: A folder or a URI. None: the environment's DIFFSEG_STORE, or `results`, as the program has it.
    """
    return load(store or os.environ.get("DIFFSEG_STORE", "results"), list(studies))


def load(store: str | Path, studies: str | list[str]) -> Results:
    """Return the results so far of one or more studies in a store. Raises UserError if there are none yet."""
    names = [studies] if isinstance(studies, str) else studies
    found = tables.load([open_ledger(str(store), name) for name in names])
    return Results(found.ledgers, found.trials, found.failed)
