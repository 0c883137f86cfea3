"""Records of searches: what a search proposes, and what its trials reach at rungs.

A record is one or several rows, written as `<table>/<name>.parquet`. Its name follows from its rows. Compaction merges the
records of many files into one, `<table>/merged-<id>.parquet`, and then removes those files. A record counts as long as any
file holds it, so that nothing is lost wherever a compaction is killed; a record's own file overrides a merged one.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from diffseg.rows import Row
from studies.store import validity
from studies.store.files import TableFiles
from studies.store.tables import SEARCH_SCHEMAS, search_table
from studies.store.validity import MERGED, READ_ERRORS, InvalidFile, is_merged

log = logging.getLogger(__name__)
NAMES = {"proposals": "{search}-{number:04}-{seed}", "rungs": "{search}-{step}-{trial}"}

Records = dict[str, list[Row]]  # by name


def record_name(table: str, row: Row) -> str:
    """Return the name of the record that a row is of."""
    return NAMES[table].format(**row)


def read_records(files: TableFiles, table: str, file: str) -> Records:
    """Return the records of one file. Raises one of READ_ERRORS if the file is damaged."""
    path, schema = files.path(table, file), SEARCH_SCHEMAS[table]
    rows = ds.dataset([path], filesystem=files.filesystem, format="parquet", schema=schema).to_table()
    validity.check_values(table, rows)
    found: Records = {}
    for row in rows.to_pylist():
        name = record_name(table, row)
        if not is_merged(file) and f"{name}.parquet" != file:
            raise InvalidFile(f"its name is not that of its rows, {name[:80]}")
        found.setdefault(name, []).append(row)
    return found


class SearchRecords:
    """The records of a table, read incrementally: files are immutable, so each is read once.

    Safe to use from several threads.
    """

    def __init__(self, files: TableFiles, table: str) -> None:
        self._files, self._table = files, table
        self._read: dict[str, Records] = {}  # by file
        self._lock = threading.Lock()

    def all(self) -> Records:
        """Return every record that the table holds now, sorted by name. Damaged files are skipped with a warning."""
        with self._lock:
            while True:
                names = self._names()
                vanished = self._read_new(names)
                if not vanished or self._names() == names:  # else a compaction has merged some of them
                    break
            self._read = {file: self._read[file] for file in names if file in self._read}
            found: Records = {}
            for file in sorted(self._read, key=is_merged, reverse=True):
                found |= self._read[file]
        return dict(sorted(found.items(), key=lambda item: f"{item[0]}.parquet"))

    def sources(self) -> list[str]:
        """Return the names of the files that `all` has read the records from."""
        with self._lock:
            return list(self._read)

    def _names(self) -> list[str]:
        """Return the names of the table's files at one moment, during which no compaction has come between."""
        while True:
            names = self._files.parquet_names(self._table)
            again = self._files.parquet_names(self._table)
            if list(filter(is_merged, names)) == list(filter(is_merged, again)):
                return names

    def _read_new(self, names: list[str]) -> bool:
        """Read the files that were not read before. Return whether some of them no longer exist."""
        fresh = [file for file in names if file not in self._read]
        if len(fresh) > 1:
            with ThreadPoolExecutor() as pool:
                found = list(pool.map(self._try_read, fresh))
        else:
            found = [self._try_read(file) for file in fresh]
        vanished = False
        for file, records in zip(fresh, found, strict=True):
            if isinstance(records, FileNotFoundError):
                vanished = True
            elif isinstance(records, Exception):
                path = f"{self._table}/{file}"
                self._files.warn_skipped(path, self._files.describe_fault(path, records))
            else:
                self._read[file] = records
        return vanished

    def _try_read(self, file: str) -> Records | Exception:
        try:
            return read_records(self._files, self._table, file)
        except READ_ERRORS as error:
            return error


def compact_records(files: TableFiles, table: str, at_least: int = 1) -> int:
    """Merge the records of a table's files into one file and return how many files were merged.

    Does nothing below `at_least` files. Damaged files stay where they are. Only for the holder of the study's lock; others
    may write records meanwhile, which are kept, except a record that is written anew under the same name in between.
    """
    if sum(not is_merged(file) for file in files.parquet_names(table)) < at_least:
        return 0
    reader = SearchRecords(files, table)
    rows = [row for records in reader.all().values() for row in records]
    sources = reader.sources()
    if len(sources) < 2 and all(map(is_merged, sources)):
        return 0
    name = f"{MERGED}{uuid4().hex}.parquet"
    with files.folder.open_for_writing(f"{table}/{name}", durable=True) as sink:  # its sources are about to be removed
        pq.write_table(search_table(table, rows), sink, compression="zstd")
    written = pq.read_metadata(files.path(table, name), filesystem=files.filesystem)
    assert written.num_rows == len(rows)
    for file in sources:
        files.folder.remove(f"{table}/{file}")
    return sum(not is_merged(file) for file in sources)
