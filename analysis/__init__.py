"""Analysis: tables, charts and the report, made from the ledger alone; README.md is its manual.

    results = analysis.load("results", "quickstart")
    results.best("ece")

`results` is a Tables (analysis/tables.py). The functions of charts, pictures, uncertainty and search_charts draw it with Altair.
"""

from pathlib import Path

from analysis import tables
from analysis.tables import Tables
from studies.store.ledger import open_ledger


def load(store: str | Path, studies: str | list[str]) -> Tables:
    """Return the results so far of one or more studies in a store. Raises UserError if there are none yet."""
    names = [studies] if isinstance(studies, str) else studies
    return tables.load([open_ledger(str(store), name) for name in names])
