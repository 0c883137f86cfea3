"""The last attempt of each trial, for callers that ask repeatedly."""

from collections.abc import Iterable

from diffseg.rows import Row
from studies.store.ledger import Ledger
from studies.store.validity import is_merged


class LatestRows:
    """The row of each trial's last attempt, read incrementally: files are immutable, so each is read once."""

    def __init__(self, ledger: Ledger, columns: Iterable[str]) -> None:
        self.ledger, self.columns = ledger, sorted({*columns, "trial", "attempt"})
        self._read: set[str] = set()
        self._merged: list[str] | None = None  # files that compactions have left
        self._rows: dict[str, Row] = {}

    def rows(self) -> dict[str, Row]:
        """Return the rows by trial."""
        fresh = [file for file in self._names() if file not in self._read]
        if fresh:
            found, sound = self.ledger.scan_files("trials", fresh, self.columns)
            self._read.update(sound)
            for row in found.to_pylist():
                if row["attempt"] >= self._rows.get(row["trial"], row)["attempt"]:
                    self._rows[row["trial"]] = row
        return dict(self._rows)

    def _names(self) -> list[str]:
        """Return the names of the files to read. Files that a compaction is about to remove do no harm once it is read."""
        names = self.ledger.files.attempt_names("trials")
        merged = list(filter(is_merged, names))
        if merged != self._merged:
            names = self.ledger.files.counted_names("trials")
            self._merged = list(filter(is_merged, names))
        return names
