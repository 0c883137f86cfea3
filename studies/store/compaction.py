"""Compaction: a ledger's many small files become one file for each table, which is read much faster.

Tables of attempts, which count together:
1. The rows that count are written to `<table>/merged-<id>.parquet`, one id in all tables. Nobody reads these files yet.
2. `trials/merged-<id>.parquet`, whose metadata name the files that the id replaces, is renamed into place. From now on it
   counts, and those files do not: one rename holds for all tables at once.
3. The files that no longer count are removed.

A compaction that is killed before step 2 has changed nothing. One that is killed after it has lost nothing: the next
compaction or session removes what is left. Records of searches are merged one table at a time (search_records.py).
"""

import json
from collections.abc import Iterator
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from diffseg.errors import UserError
from studies.store.ledger import Ledger
from studies.store.lock import Lock
from studies.store.search_records import compact_records
from studies.store.tables import SCHEMAS, SEARCH_SCHEMAS
from studies.store.validity import MERGED, STANDS_FOR, is_merged

BATCH = 16 << 20  # bytes of small files that are read at once
COMPACT_FROM = 500  # loose files of a table from which a session merges them: reading so many takes a second or two
COMPACT_RECORDS_FROM = 32  # the same for records of searches, which every trial of a search reads at each of its rungs
ROW_GROUP = 20_000  # rows that a reader of a single trial has to read


def compact(ledger: Ledger) -> int:
    """Merge all files that are not merged yet, and return how many attempts they held.

    Raises UserError if a file is damaged, or if the study is being run.
    """
    lock = Lock(ledger.folder)
    lock.acquire()
    try:
        return compact_locked(ledger)
    finally:
        lock.release()


def compact_locked(ledger: Ledger, at_least: int = 1) -> int:
    """Like `compact`, for a caller that holds the lock. Tables with fewer than `at_least` loose files are left alone."""
    for table in SEARCH_SCHEMAS:
        compact_records(ledger.files, table, at_least)
    remove_replaced(ledger)
    files = {table: ledger.files.counted_names(table) for table in SCHEMAS}
    loose = sum(not is_merged(file) for file in files["trials"])
    if loose < at_least:
        return 0
    name = f"{MERGED}{uuid4().hex}.parquet"
    for table in _tables():
        _merge(ledger, table, files[table], name)
    remove_replaced(ledger)
    return loose


def compact_search_records(ledger: Ledger) -> None:
    """Merge the records of searches where they have become many, for a session that holds the lock and goes on."""
    for table in SEARCH_SCHEMAS:
        compact_records(ledger.files, table, COMPACT_RECORDS_FROM)


def remove_replaced(ledger: Ledger) -> None:
    """Remove files that merged ones replace, and merged ones that never came to count. Only for the holder of the lock."""
    ended, replaced = set(ledger.files.attempt_names("trials")), ledger.files.replaced_by_merged()
    for table in _tables():
        for file in ledger.files.attempt_names(table):
            if file in replaced or (is_merged(file) and file not in ended):
                ledger.folder.remove(f"{table}/{file}")


def _tables() -> list[str]:
    """Return the tables of attempts, `trials` last."""
    return sorted(SCHEMAS, key=lambda table: table == "trials")


def _merge(ledger: Ledger, table: str, files: list[str], name: str) -> None:
    """Write one table's files as the merged file `name`, which is on the disk before it has that name.

    The merged file of `trials` lists the files that it stands for; they no longer count from then on.
    """
    if not files:
        return
    schema = ledger.dataset(table).schema
    if table == "trials":
        names = files + [old for file in files if is_merged(file) for old in ledger.files.replaced_by(file)]
        schema = schema.with_metadata({STANDS_FOR: json.dumps(sorted(names))})
    rows = 0
    with (
        ledger.folder.open_for_writing(f"{table}/{name}", durable=True) as sink,  # the small files are about to go
        pq.ParquetWriter(sink, schema, compression="zstd") as writer,
    ):
        for part in _parts(ledger, table, files, schema.remove_metadata()):
            writer.write_table(part, row_group_size=ROW_GROUP)
            rows += part.num_rows
    written = pq.read_metadata(ledger.files.path(table, name), filesystem=ledger.files.filesystem)
    assert written.num_rows == rows, f"{table}/{name} has {written.num_rows} rows instead of {rows}"


def _parts(ledger: Ledger, table: str, files: list[str], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the files' rows in tables of about BATCH bytes. Merged files, which are large, are read piece by piece."""
    pending, size = list[pa.Table](), 0
    for file in files:
        try:
            source = pq.ParquetFile(ledger.files.path(table, file), filesystem=ledger.files.filesystem)
            known = [
                name for name in source.schema_arrow.names if name in schema.names
            ]  # others are not checked, either
            pieces = source.iter_batches(ROW_GROUP, columns=known) if is_merged(file) else [source.read(columns=known)]
            for piece in pieces:
                pending.append(_cast(piece, schema))
                size += pending[-1].nbytes
                if size > BATCH:
                    yield pa.concat_tables(pending)
                    pending, size = [], 0
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(
                f"{ledger.root}/{table}/{file} is damaged ({error}), so nothing was merged: `diffseg run` sets it aside first"
            ) from None
    if pending:
        yield pa.concat_tables(pending)


def _cast(piece: pa.Table | pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """Return the rows with the schema's columns, null where the file has none."""
    columns = [
        piece.column(field.name).cast(field.type)
        if field.name in piece.schema.names
        else pa.nulls(piece.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
