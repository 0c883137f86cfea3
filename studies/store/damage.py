"""Damage: files of a ledger that are not what their names and their tables say."""

from studies.store import reading, validity
from studies.store.files import TableFiles
from studies.store.search_records import read_records
from studies.store.tables import SCHEMAS, SEARCH_SCHEMAS
from studies.store.validity import READ_ERRORS, is_merged


def find_damaged(files: TableFiles) -> dict[str, str]:
    """Return all damaged and foreign files by path below the study's folder, with what is wrong, as a clause.

    Hidden files are left out, since file systems and their viewers keep some of their own.
    """
    found: dict[str, str] = {}
    for table in (*SCHEMAS, *SEARCH_SCHEMAS):
        if files.folder.exists(table):
            found[table] = "it is a file where the ledger has a folder"
        found |= {f"{table}/{name}": "it is not a file of the ledger" for name in files.foreign_names(table)}
    for table in SCHEMAS:
        faults = reading.find_faults(files, table, files.counted_names(table))
        found |= {f"{table}/{file}": reason for file, reason in faults.items()}
    merged = set(filter(is_merged, files.attempt_names("trials"))).difference(files.counted_names("trials"))
    for file in sorted(merged - files.replaced_by_merged()):
        found[f"trials/{file}"] = "it stands for the same attempts as another file"
    for table in SEARCH_SCHEMAS:
        for file in files.parquet_names(table):
            try:
                read_records(files, table, file)
            except READ_ERRORS as error:
                found[f"{table}/{file}"] = files.describe_fault(f"{table}/{file}", error)
    return found


def paths_to_move(path: str) -> list[str]:
    """Return the paths that go with a damaged file: its attempt's files in all tables, `trials` first; else the file alone."""
    if is_of_attempt(path):
        file = path.rpartition("/")[2]
        return [f"{other}/{file}" for other in SCHEMAS]  # without its row in `trials` the rest no longer counts
    return [path]


def is_of_attempt(path: str) -> bool:
    """Return whether a path is that of an attempt's file or of a merged file of attempts."""
    table, _, file = path.partition("/")
    return table in SCHEMAS and validity.is_ledger_name(file)
