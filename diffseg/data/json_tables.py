"""Tables in JSON: refused in one sentence where they are none, or give a key twice."""

import json
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from diffseg.data.opening import data_errors, open_file
from diffseg.errors import DataError

Table = dict[str, Any]


def load_table(path: Path) -> Table:
    """Return the content of the file. Raises DataError unless it is a table in JSON."""
    with open_file(path) as file, data_errors(path):
        content = file.read()
    try:
        found = json.loads(content, object_pairs_hook=partial(_make_table, path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}): correct it, or copy it anew") from None
    if not isinstance(found, dict):
        refuse(path, "holds no table: nnU-Net's has channel_names, labels, numTraining and file_ending")
    return found


def _make_table(path: Path, pairs: list[tuple[str, Any]]) -> Table:
    """Return a table of JSON. Raises DataError for a key that is given twice."""
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        refuse(path, f"gives {shorten(next(key for key in keys if keys.count(key) > 1))} twice: leave one of them out")
    return table


def refuse(path: Path, what: str) -> NoReturn:
    """Raise DataError for the file, as one sentence."""
    raise DataError(f"{path} {what}")


def shorten(value: Any) -> str:
    """Return a value as JSON, cut off where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
