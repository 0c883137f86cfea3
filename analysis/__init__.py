"""What is learnt: tables, charts and the report, from the ledger alone.

    results = analysis.load("results", "quickstart")
    results.best("ece")

`results` is a Tables (analysis/tables.py); the functions of charts, exhibits and uncertainty draw it with Altair.
"""

from pathlib import Path

from analysis import tables
from analysis.tables import Tables
from studies.store.ledger import open_ledger


def load(store: str | Path, studies: str | list[str]) -> Tables:
    """The results of one or more studies in a store, as far as they are. Raises UserError if there are none yet."""
    names = [studies] if isinstance(studies, str) else studies
    return tables.load([open_ledger(str(store), name) for name in names])
