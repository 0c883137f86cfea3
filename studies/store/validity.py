"""Checks of a ledger's files: whether a file is what its name and its table's schema say."""

import json
import re
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

MERGED = "merged-"  # the beginning of merged files' names; trials' names begin with their experiment
STANDS_FOR = b"stands_for"  # key in the metadata of merged files of `trials`: JSON list of the replaced files' names
STATUSES = ("complete", "failed", "pruned")
READ_ERRORS = (
    pa.ArrowException,
    OSError,
    ValueError,
    OverflowError,
)  # raised on reading a damaged or foreign file

_ATTEMPT = re.compile(r"(?P<trial>.+)-(?P<attempt>\d{1,9})\.parquet", re.DOTALL)
_MERGED = re.compile(MERGED + r"[0-9a-f]{32}\.parquet")
JSON_COLUMNS: dict[str, type | tuple[type, ...]] = {  # columns that readers decode, and what they have to hold
    "config": dict,
    "left_out": dict,
    "versions": dict,
    "scaling": dict,
    "labels": dict,
    "fingerprint": list,
    "settings": dict,
    "config_inference_seeds": list,
    "config_data_classes": (dict, list),
}
_REQUIRED = {  # columns without which a row says nothing
    "trials": ("status",),
    "proposals": ("search", "number", "seed", "source", "settings"),
    "rungs": ("search", "step", "trial", "metric", "value"),
}
_YEARS = (pa.scalar(0, pa.timestamp("ms", "UTC")), pa.scalar(4102444800000, pa.timestamp("ms", "UTC")))  # 1970 to 2100


class InvalidFile(ValueError):
    """A file does not hold what it should. The text says what is wrong with it, as a clause."""


def is_merged(file: str) -> bool:
    """Return whether a file has the name of a merged file."""
    return _MERGED.fullmatch(file) is not None


def parse_attempt(file: str) -> tuple[str, int] | None:
    """Return the trial and the attempt in a file's name; None if it is not the name of a single attempt."""
    found = None if file.startswith(MERGED) else _ATTEMPT.fullmatch(file)
    return (found["trial"], int(found["attempt"])) if found else None


@lru_cache(100_000)  # a running search lists its files for every proposal
def is_ledger_name(file: str) -> bool:
    """Return whether a file has the name of an attempt or of a merged file."""
    return is_merged(file) or parse_attempt(file) is not None


def replaced_names(metadata: dict[bytes, bytes] | None) -> list[str]:
    """Return the names of the files that a merged file of `trials` replaces, from its metadata. Raises InvalidFile."""
    try:
        names = json.loads((metadata or {})[STANDS_FOR])
    except (KeyError, ValueError, RecursionError):
        raise InvalidFile("its metadata do not say which files it stands for") from None
    if not isinstance(names, list) or not all(isinstance(name, str) and is_ledger_name(name) for name in names):
        raise InvalidFile("its metadata do not say which files it stands for")
    return names


def check_types(found: pa.Schema, wanted: pa.Schema) -> None:
    """Check that a file's columns hold what the table's do, text or numbers, whatever their width. Raises InvalidFile."""
    for field in wanted:
        place = found.get_field_index(field.name)
        kind = found.field(place).type if place >= 0 else pa.null()
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not pa.types.is_null(kind) and _family(kind) != _family(field.type):
            raise InvalidFile(
                f"its column {field.name} is of the type {str(kind)[:60]}, but the table's is {field.type}"
            )


def _family(kind: pa.DataType) -> str:
    """Return what a type holds: text, number, or the type itself."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else str(kind.id)


def check_values(table: str, rows: pa.Table) -> None:
    """Check that the rows' values can be read: text in UTF-8, required values, JSON, dates. Raises InvalidFile."""
    rows.validate(full=True)
    for name in _REQUIRED.get(table, ()):
        if name in rows.column_names and rows[name].null_count:
            raise InvalidFile(f"its column {name} lacks values")
    if table == "proposals":
        _check_trials_named(rows)
    if "status" in rows.column_names and (other := set(pc.unique(rows["status"]).to_pylist()) - set(STATUSES)):
        raise InvalidFile(f"its status is {str(min(other, key=str))[:40]!r}, which is none of {', '.join(STATUSES)}")
    for name, kind in JSON_COLUMNS.items():
        if name in rows.column_names and table in ("trials", "proposals"):
            for text in pc.unique(rows[name]).to_pylist():
                _check_json(name, text, kind)
    for field in rows.schema:
        if pa.types.is_timestamp(field.type) and rows.num_rows:
            _check_dates(field.name, rows[field.name])


def _check_trials_named(proposals: pa.Table) -> None:
    """Raise InvalidFile if a proposal has a configuration but no trial."""
    nothing = [None] * proposals.num_rows
    trials, configs = (
        proposals[name].to_pylist() if name in proposals.column_names else nothing for name in ("trial", "config")
    )
    if any(config is not None and not trial for trial, config in zip(trials, configs, strict=True)):
        raise InvalidFile("it has a configuration without the name of its trial")


def _check_dates(name: str, dates: pa.ChunkedArray) -> None:
    """Raise InvalidFile for dates that Python or a reader would stumble over."""
    ends = pc.min_max(dates)
    if ends["min"].is_valid and not (
        pc.greater_equal(ends["min"], _YEARS[0]).as_py() and pc.less(ends["max"], _YEARS[1]).as_py()
    ):
        raise InvalidFile(f"its column {name} holds a date outside of 1970 to 2100")


def check_attempts(table: str, rows: pa.Table, file: str, names: list[str] | None = None) -> None:
    """Check that a file holds the rows of its attempt, or a merged file of `trials` those of the files that it replaces.

    `names` are the replaced files' names, None if they are not known. Raises InvalidFile.
    """
    keys = list(zip(rows["trial"].to_pylist(), rows["attempt"].to_pylist(), strict=True))
    found, own = set(keys), parse_attempt(file)
    if any(None in key for key in found):
        raise InvalidFile("its rows do not say which attempt they are of")
    if own and found - {own}:
        raise InvalidFile(f"its name is of attempt {own[1]} of {own[0]}, but it holds rows of others")
    if not found:
        raise InvalidFile("it holds no row")
    if table != "trials":
        return
    if len(keys) != len(found):
        raise InvalidFile("it holds an attempt twice")
    if names is not None and found != {parse_attempt(name) for name in names if not is_merged(name)}:
        raise InvalidFile("its rows are not of the attempts that its metadata name")


def leaf_type(field: pa.Field) -> pa.DataType:
    """Return the type as which a setting's column is read: bool, float64, string, or null if empty. Raises InvalidFile."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return kind
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.string()
    raise InvalidFile(
        f"its column {field.name[:60]} is of the type {str(kind)[:60]}, but settings are numbers, text, true or false"
    )


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return a type as which values of both types can be read: a setting may be a number in one trial and text in another."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    return pa.string() if pa.string() in (one, other) else pa.float64()


def _check_json(name: str, text: str | None, kind: type | tuple[type, ...]) -> None:
    """Raise InvalidFile unless a text is JSON of a kind. Only settings may not be null."""
    if text is None and name != "settings":
        return
    try:
        found = json.loads(text or "")
    except (TypeError, ValueError, RecursionError):  # TypeError: it is no text
        found = None
    if not isinstance(found, kind):
        raise InvalidFile(f"its column {name} is not the JSON that belongs there")
