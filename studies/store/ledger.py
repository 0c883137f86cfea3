"""The ledger: every finished attempt at a trial as small immutable Parquet files. It is the only truth there is.

`<store>/<study>/<table>/<trial>-<attempt>.parquet` holds one attempt's rows of one table (tables.py). Each file is written
to a temporary name and renamed. The row in `trials` is written last: an attempt without that row did not happen, and its
rows in other tables are not read. Stores are local folders, NFS or object stores (any URI of pyarrow's file systems).

Searches write records before an attempt ends (search_records.py): `proposals`, what is to be tried, and `rungs`, what a trial
has reached at a training step. Many small files are slow to read, so compaction.py merges them.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from diffseg.errors import DefinitionError, UserError
from diffseg.rows import Row
from diffseg.suggestions import did_you_mean
from studies.definition.shipped import shipped_studies
from studies.store import names, reading, study_json
from studies.store.damage import find_damaged, is_of_attempt, paths_to_move
from studies.store.files import TableFiles
from studies.store.folder import Folder, open_store
from studies.store.search_records import SearchRecords, record_name
from studies.store.tables import SEARCH_SCHEMAS, attempt_table, search_table
from studies.store.validity import is_merged, parse_attempt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ledger:
    """The tables of one study. `store` is a path or a URI.

    All methods raise StoreError if the store is out of reach. Reading skips files that are damaged or foreign, with a
    warning; `set_aside_damaged` moves them away.
    """

    store: str
    study: str
    folder: Folder = field(init=False, repr=False, compare=False)
    files: TableFiles = field(init=False, repr=False, compare=False)
    _records: dict[str, SearchRecords] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Open the store. Raises UserError if it cannot be used, or if the study's name leads out of it or is too long."""
        outer = open_store(self.store)
        names.check_study(self.study, outer.local / self.study if outer.local else None)
        folder = outer.at(self.study)
        object.__setattr__(self, "folder", folder)
        object.__setattr__(self, "files", TableFiles(folder))
        object.__setattr__(self, "_records", {table: SearchRecords(self.files, table) for table in SEARCH_SCHEMAS})

    def __reduce__(self) -> tuple[type["Ledger"], tuple[str, str]]:
        """Pickle the place alone, not what was read."""
        return Ledger, (self.store, self.study)

    @property
    def root(self) -> str:
        """The path of the study's folder in its file system."""
        return self.folder.path

    def log_path(self, trial: str) -> str:
        """Return the path of a trial's log in the store's file system, wherever the store lies now."""
        return f"{self.root}/{names.log_name(trial)}"

    def write(self, trial: str, attempt: int, tables: dict[str, list[Row]]) -> None:
        """Record one attempt: rows by table, with one row in `trials`, which is written last.

        Raises ValueError, before anything is written, for a table or a column that the ledger does not have.
        """
        found = {table: attempt_table(table, trial, attempt, rows) for table, rows in tables.items()}
        for table in sorted(found, key=lambda name: name == "trials"):
            if found[table].num_rows:
                self._write(f"{table}/{trial}-{attempt}.parquet", found[table])

    def read(
        self,
        table: str,
        columns: list[str] | None = None,
        trials: list[str] | None = None,
        where: ds.Expression | None = None,
    ) -> pa.Table:
        """Return the rows of all attempts that ended, or only those of some trials, or those that meet a condition."""
        return reading.read_rows(self.files, table, columns, trials, where)

    def scan_files(self, table: str, files: list[str], columns: list[str] | None = None) -> tuple[pa.Table, list[str]]:
        """Return the rows of some files, and the names of the files that could be read."""
        return reading.scan_files(self.files, table, files, columns)

    def dataset(self, table: str, trials: list[str] | None = None) -> ds.Dataset:
        """Return the rows that `read` returns as a dataset, which a compaction of the study makes unusable."""
        return reading.open_dataset(self.files, table, self.files.counted_names(table, trials), trials)

    def last_attempts(self) -> dict[str, int]:
        """Return the number of the last attempt of each trial that has ended (complete, failed or pruned)."""
        files, found = self.files.counted_names("trials"), dict[str, int]()
        files += [name for file in files if is_merged(file) for name in self.files.replaced_by(file)]
        for trial, attempt in filter(None, map(parse_attempt, files)):
            found[trial] = max(found.get(trial, 0), attempt)
        return found

    def last_rows(self, columns: Iterable[str] | None = None) -> list[Row]:
        """Return the row of each trial's last attempt."""
        wanted = None if columns is None else sorted({*columns, "trial", "attempt"})
        rows = sorted(self.read("trials", wanted).to_pylist(), key=lambda row: row["attempt"])
        return list({row["trial"]: row for row in rows}.values())

    def record(self, table: str, rows: list[Row]) -> None:
        """Write one record of a search's table. Raises ValueError for a table or a column that the ledger does not have."""
        found = search_table(table, rows)
        self._write(f"{table}/{record_name(table, rows[0])}.parquet", found)

    def records(self, table: str, search: str | None = None) -> list[Row]:
        """Return the rows of a search's table, of all searches or of one, sorted by the records' names.

        Each file is read once in the ledger's life, since files are immutable.
        """
        rows = [row for record in self._records[table].all().values() for row in record]
        return rows if search is None else [row for row in rows if row["search"] == search]

    def set_aside_damaged(self) -> list[str]:
        """Move damaged and foreign files to `damaged/`, with a warning each, and return the paths that they had.

        A damaged file of an attempt goes with the whole attempt, which then counts as never made, so that its trial runs
        again.
        """
        found = find_damaged(self.files)
        for path, reason in found.items():
            again = "; its trials run again" if is_of_attempt(path) else ""
            log.warning("%s/%s is set aside in %s/damaged, since %s%s", self.root, path, self.root, reason, again)
            for place in paths_to_move(path):
                self.folder.move(place, f"damaged/{place}")
        return [f"{self.root}/{path}" for path in found]

    def definition(self) -> dict[str, Any] | None:
        """Return the study's desired state, as `run` wrote it last; None if the study does not exist.

        Raises DefinitionError if the file is damaged.
        """
        content = self.folder.read(study_json.NAME)
        return None if content is None else study_json.parse(content, f"{self.root}/{study_json.NAME}")

    def usable_definition(self) -> dict[str, Any] | None:
        """Return the definition, for a caller that can write it anew: None, with a warning, if it is damaged."""
        try:
            return self.definition()
        except DefinitionError as error:
            log.warning("%s", error)
            return None

    def is_defined(self) -> bool:
        """Return whether the study exists."""
        return self.folder.exists(study_json.NAME)

    def define(self, definition: dict[str, Any]) -> None:
        """Write the desired state. A damaged one is moved to `damaged/`."""
        try:
            self.definition()
        except DefinitionError:
            self.folder.move(study_json.NAME, f"damaged/{study_json.NAME}")
        self.folder.write(study_json.NAME, study_json.encode(definition), durable=True)

    def _write(self, path: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.folder.write(path, sink.getvalue(), durable=True)


def open_ledger(store: str, study: str) -> Ledger:
    """Return the ledger of an existing study. Raises UserError if the store does not hold it."""
    ledger = Ledger(store, study)
    if not ledger.is_defined():
        start = f"`diffseg run {study}` starts one"
        if study not in shipped_studies():
            known = ", ".join(shipped_studies())
            start = f"`diffseg run` starts one from {known}, or from a TOML file of your own"
        hint = did_you_mean(study, [*shipped_studies(), *list_studies(open_store(store))])
        raise UserError(
            f"there is no study '{study}' in the store {store}{hint}: {start}; --store DIR names another store"
        )
    return ledger


def list_studies(store: Folder) -> list[str]:
    """Return the names of the folders of a store that hold a study."""
    return [name for name in store.folders() if store.at(name).exists(study_json.NAME)]
