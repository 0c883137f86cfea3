"""The sizes of a study's files."""

from collections import Counter
from dataclasses import dataclass

from studies.store.ledger import Ledger
from studies.store.tables import SCHEMAS, SEARCH_SCHEMAS


@dataclass(frozen=True)
class Sizes:
    """Bytes of a study's files."""

    trials: dict[str, int]  # networks, checkpoints and logs of each trial that has any
    tables: int
    other: int  # the report, say

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(self.trials.values()) + self.tables + self.other


def measure_sizes(ledger: Ledger) -> Sizes:
    """Measure a study's files by one listing: 0.6 s to 1 s for 80,000 files on a local disk."""
    trials, tables, other = Counter[str](), 0, 0
    for name, size in ledger.folder.files().items():
        room, _, below = name.partition("/")
        if room == "work":
            trials[below.partition("/")[0]] += size
        elif room in SCHEMAS or room in SEARCH_SCHEMAS:
            tables += size
        else:
            other += size
    return Sizes(dict(trials), tables, other)
