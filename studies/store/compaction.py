"""Compaction: a ledger's many small files become one a table, which is read much faster.

1. What counts is written to `<table>/merged-<id>.parquet`, each renamed into place; nobody reads them yet.
2. `trials/merged-<id>.parquet`, which names the files that the id stands for, is renamed into place. Now it counts, and
   they do not: one rename, so that it holds for all tables at once.
3. The files that no longer count are removed.

Killed before 2, nothing has happened; killed after it, nothing is lost. The next compaction or session sweeps up.
"""

import json
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from diffseg.errors import UserError
from studies.store.ledger import Ledger
from studies.store.lock import Lock
from studies.store.tables import SCHEMAS
from studies.store.validity import MERGED, STANDS_FOR, is_merged

BATCH = 16 << 20  # bytes of small files that are read at once
COMPACT_FROM = 500  # attempts from which on a session merges them: reading so many files takes a second or two
ROW_GROUP = 20_000  # rows: what a reader who wants one trial has to read


def compact(ledger: Ledger) -> int:
    """Merge what is not merged yet; return how many attempts that were. Raises UserError if a file is damaged, or if the
    study is being run."""
    lock = Lock(ledger.folder)
    lock.acquire()
    try:
        return compact_locked(ledger)
    finally:
        lock.release()


def compact_locked(ledger: Ledger, at_least: int = 1) -> int:
    """The same by who holds the lock, if there are so many attempts to merge."""
    remove_replaced(ledger)
    files = {table: ledger.counted_files(table) for table in SCHEMAS}
    loose = sum(not is_merged(file) for file in files["trials"])
    if loose < at_least:
        return 0
    name = f"{MERGED}{uuid4().hex}.parquet"
    for table in sorted(SCHEMAS, key=lambda table: table == "trials"):
        _merge(ledger, table, files[table], name)
    remove_replaced(ledger)
    return loose


def remove_replaced(ledger: Ledger) -> None:
    """Remove files for which merged ones stand, and merged ones that never came to count. Only while the lock is held."""
    ended = set(ledger.file_names("trials"))
    replaced = {name for file in ended if is_merged(file) for name in ledger.replaced_by(file)}
    for table in sorted(SCHEMAS, key=lambda table: table == "trials"):
        for file in ledger.file_names(table):
            if file in replaced or (is_merged(file) and file not in ended):
                ledger.folder.remove(f"{table}/{file}")


def _merge(ledger: Ledger, table: str, files: list[str], name: str) -> None:
    """One table's files as one, on the disk before it has its name."""
    if not files:
        return
    schema = ledger.dataset(table).schema
    if table == "trials":
        names = files + [old for file in files if is_merged(file) for old in ledger.replaced_by(file)]
        schema = schema.with_metadata({STANDS_FOR: json.dumps(sorted(names))})
    rows = 0
    with (
        ledger.folder.open_for_writing(f"{table}/{name}", durable=True) as sink,  # the small files are about to go
        pq.ParquetWriter(sink, schema, compression="zstd") as writer,
    ):
        for part in _parts(ledger, table, files, schema.remove_metadata()):
            writer.write_table(part, row_group_size=ROW_GROUP)
            rows += part.num_rows
    path = f"{ledger.root}/{table}/{name}"
    assert pq.read_metadata(path, filesystem=ledger.filesystem).num_rows == rows


def _parts(ledger: Ledger, table: str, files: list[str], schema: pa.Schema):
    """The files' rows in tables of about BATCH bytes; the merged ones, which are large, piece by piece."""
    pending, size = [], 0
    for file in files:
        try:
            source = pq.ParquetFile(f"{ledger.root}/{table}/{file}", filesystem=ledger.filesystem)
            pieces = source.iter_batches(ROW_GROUP) if is_merged(file) else [source.read()]
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
    """With the schema's columns, empty where the file has none."""
    columns = [
        piece.column(field.name).cast(field.type)
        if field.name in piece.schema.names
        else pa.nulls(piece.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
