"""Reading the tables of attempts: the rows of many files, without those that are damaged."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from studies.store import validity
from studies.store.files import TableFiles
from studies.store.tables import COMMON_LEAVES, NUMERIC_LEAVES, SCHEMAS
from studies.store.validity import READ_ERRORS, InvalidFile, is_merged, parse_attempt


def read_rows(
    files: TableFiles,
    table: str,
    columns: list[str] | None = None,
    trials: list[str] | None = None,
    where: ds.Expression | None = None,
) -> pa.Table:
    """Return the rows of all attempts that ended, or only those of some trials, or those that meet a condition.

    The result does not depend on a compaction that runs meanwhile.
    """
    while True:
        names = files.counted_names(table, trials)
        found, sound = scan_files(files, table, names, columns, trials, where)
        if sound == names or files.counted_names(table, trials) == names:  # else files were merged, not damaged
            return found


def scan_files(
    files: TableFiles,
    table: str,
    names: list[str],
    columns: list[str] | None = None,
    trials: list[str] | None = None,
    where: ds.Expression | None = None,
) -> tuple[pa.Table, list[str]]:
    """Return the rows of some files, and the names of the files that could be read. Warns of damaged ones."""
    try:
        return _rows(files, table, names, columns, trials, where), names
    except READ_ERRORS:
        faults = find_faults(files, table, names)
        sound = [file for file in names if file not in faults]
        present = set(files.attempt_names(table)) if faults else set()  # other files were merged meanwhile
        for file in present.intersection(faults):
            files.warn_skipped(f"{table}/{file}", faults[file])
        return _rows(files, table, sound, columns, trials, where), sound


def open_dataset(
    files: TableFiles, table: str, names: list[str], trials: list[str] | None = None, columns: list[str] | None = None
) -> ds.Dataset:
    """Return the rows of some files as a dataset. Columns that an earlier version did not write are null."""
    schema = SCHEMAS[table]
    paths = [files.path(table, file) for file in names]
    if table == "trials" and not (columns and set(columns) <= set(schema.names)):
        schema = _with_leaves(files, schema, paths)
    if not paths:
        return ds.dataset(schema.empty_table())
    data = ds.dataset(paths, filesystem=files.filesystem, format="parquet", schema=schema)
    some = trials is not None and any(map(is_merged, names))
    return data.filter(ds.field("trial").isin(pa.array(trials, pa.string()))) if some else data


def find_faults(files: TableFiles, table: str, names: list[str]) -> dict[str, str]:
    """Return what is wrong with each damaged file, as a clause."""
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(lambda file: _fault(files, table, file), names)
        return {file: reason for file, reason in zip(names, reasons, strict=True) if reason}


def _fault(files: TableFiles, table: str, file: str) -> str | None:
    try:
        schema = pq.read_schema(files.path(table, file), filesystem=files.filesystem)
        validity.check_types(schema, SCHEMAS[table])  # others are read, too, unless a filter compares their values
        replaced = validity.replaced_names(schema.metadata) if table == "trials" and is_merged(file) else None
        rows = open_dataset(files, table, [file]).to_table()
        validity.check_attempts(table, rows, file, replaced)
        validity.check_values(table, rows)
    except READ_ERRORS as error:
        return files.describe_fault(f"{table}/{file}", error)
    return None


def _rows(
    files: TableFiles,
    table: str,
    names: list[str],
    columns: list[str] | None,
    trials: list[str] | None,
    where: ds.Expression | None,
) -> pa.Table:
    """Return the rows of files. Raises one of READ_ERRORS if one of the files is damaged."""
    data = open_dataset(files, table, names, trials, columns)
    known = ds.field("trial").is_valid() & ds.field("attempt").is_valid()
    wanted = data.schema.names if columns is None else columns
    keys = ["trial", "attempt", "status"] if table == "trials" else []
    found = data.to_table(columns=[*dict.fromkeys([*wanted, *keys])], filter=known if where is None else known & where)
    validity.check_values(table, found)
    if table == "trials":
        _check_attempts_unique(found, names if where is None and trials is None else None)
    return found.select(wanted)


def _check_attempts_unique(rows: pa.Table, names: list[str] | None) -> None:
    """Raise InvalidFile if an attempt occurs twice, or if one of the named files lacks its row."""
    keys = list(zip(rows["trial"].to_pylist(), rows["attempt"].to_pylist(), strict=True))
    if len(keys) != len(set(keys)):
        raise InvalidFile("an attempt comes twice")
    if names is not None and not set(filter(None, map(parse_attempt, names))).issubset(keys):
        raise InvalidFile("a file lacks its row")


def _with_leaves(files: TableFiles, schema: pa.Schema, paths: list[str]) -> pa.Schema:
    """Return the schema with the columns `config_*` of files, which differ between versions and between trials.

    Raises InvalidFile if a column has a type that no setting has.
    """
    kinds = dict(COMMON_LEAVES) if paths else {}
    for found in _schemas(files, paths):
        for field in found:
            if field.name.startswith("config_") and field.name not in COMMON_LEAVES:
                kind = validity.leaf_type(field)
                kinds[field.name] = NUMERIC_LEAVES.get(field.name) or validity.common_type(
                    kinds.get(field.name, pa.null()), kind
                )
    return pa.schema([*schema, *kinds.items()])


def _schemas(files: TableFiles, paths: list[str]) -> list[pa.Schema]:
    """Return the distinct schemas of files."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda path: pq.read_schema(path, filesystem=files.filesystem).remove_metadata(), paths)
        return list(dict.fromkeys(found))
