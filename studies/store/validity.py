"""Whether a file among a ledger's tables is what its name and the table's schema say."""

import json
import re

import pyarrow as pa
import pyarrow.compute as pc

MERGED = "merged-"  # how the names of merged files begin; those of trials begin with their experiment
STANDS_FOR = b"stands_for"  # JSON, in the metadata of merged files of `trials`
STATUSES = ("complete", "failed", "pruned")
READ_ERRORS = (
    pa.ArrowException,
    OSError,
    ValueError,
    OverflowError,
)  # what reading a damaged or foreign file may raise

_ATTEMPT = re.compile(r"(?P<trial>.+)-(?P<attempt>\d{1,9})\.parquet", re.DOTALL)
_MERGED = re.compile(MERGED + r"[0-9a-f]{32}\.parquet")
_JSON = {
    "config": dict,
    "versions": dict,
    "scaling": dict,
    "fingerprint": list,
    "settings": dict,
    "config_inference_seeds": list,
}
_REQUIRED = {  # columns without which a row says nothing
    "trials": ("status",),
    "proposals": ("search", "number", "seed", "source", "settings"),
    "rungs": ("search", "step", "trial", "metric", "value"),
}
_YEARS = (pa.scalar(0, pa.timestamp("ms", "UTC")), pa.scalar(4102444800000, pa.timestamp("ms", "UTC")))  # 1970 to 2100


class InvalidFile(ValueError):
    """Rows that are not a table's. The text says what is wrong with the file that holds them, as a clause."""


def is_merged(file: str) -> bool:
    return _MERGED.fullmatch(file) is not None


def parse_attempt(file: str) -> tuple[str, int] | None:
    """The trial and the attempt that a file's name says; None if it is the name of no single attempt."""
    found = None if file.startswith(MERGED) else _ATTEMPT.fullmatch(file)
    return (found["trial"], int(found["attempt"])) if found else None


def is_ledger_name(file: str) -> bool:
    """Whether a file has the name of an attempt or of a merged file."""
    return is_merged(file) or parse_attempt(file) is not None


def replaced_names(metadata: dict[bytes, bytes] | None) -> list[str]:
    """The names of the files that a merged file of `trials` stands for, from its metadata. Raises Unfit."""
    try:
        names = json.loads((metadata or {})[STANDS_FOR])
    except (KeyError, ValueError, RecursionError):
        raise InvalidFile("its metadata do not say which files it stands for") from None
    if not isinstance(names, list) or not all(isinstance(name, str) and is_ledger_name(name) for name in names):
        raise InvalidFile("its metadata do not say which files it stands for")
    return names


def check_values(table: str, rows: pa.Table) -> None:
    """Raises Unfit unless the rows' values are such as the program reads: text in UTF-8, required values, JSON, dates."""
    rows.validate(full=True)
    for name in _REQUIRED.get(table, ()):
        if name in rows.column_names and rows[name].null_count:
            raise InvalidFile(f"its column {name} lacks values")
    if table == "proposals":
        nothing = [None] * rows.num_rows
        trials, configs = (
            rows[name].to_pylist() if name in rows.column_names else nothing for name in ("trial", "config")
        )
        if any(config is not None and not trial for trial, config in zip(trials, configs, strict=True)):
            raise InvalidFile("it has a configuration without the name of its trial")
    if "status" in rows.column_names and (other := set(pc.unique(rows["status"]).to_pylist()) - set(STATUSES)):
        raise InvalidFile(f"its status is {str(min(other, key=str))[:40]!r}, which is none of {', '.join(STATUSES)}")
    for name, kind in _JSON.items():
        if name in rows.column_names and table in ("trials", "proposals"):
            for text in pc.unique(rows[name]).to_pylist():
                _check_json(name, text, kind)
    for field in rows.schema:
        if pa.types.is_timestamp(field.type) and rows.num_rows:
            ends = pc.min_max(rows[field.name])
            if ends["min"].is_valid and not (
                pc.greater_equal(ends["min"], _YEARS[0]).as_py() and pc.less(ends["max"], _YEARS[1]).as_py()
            ):
                raise InvalidFile(f"its column {field.name} holds a date outside of 1970 to 2100")


def check_attempts(table: str, rows: pa.Table, file: str, names: list[str] | None = None) -> None:
    """Raises Unfit unless the rows are of the attempt that the file's name says, or of those that a merged one stands for.

    names: the latter, of a merged file of `trials`; None where they are not known.
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
    """As what a setting's column is read: bool, float64 or string, or null if it has no values. Raises Unfit."""
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
    """What values of both kinds can be read as: a setting may be a number in one trial and text in another."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    return pa.string() if pa.string() in (one, other) else pa.float64()


def _check_json(name: str, text: str | None, kind: type) -> None:
    if text is None and name != "settings":
        return
    try:
        found = json.loads(text or "")
    except (TypeError, ValueError, RecursionError):  # TypeError: it is no text
        found = None
    if not isinstance(found, kind):
        raise InvalidFile(f"its column {name} is not the JSON that belongs there")
