"""Settings by their dotted paths, such as `training.steps`, and as nested tables."""

import json
from typing import Any

from diffseg.errors import ConfigError

TABLES = ("data.classes",)  # settings that are tables themselves


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, by the dotted paths of settings."""
    leaves: dict[str, Any] = {}
    for key, value in table.items():
        path, nested = prefix + key, isinstance(value, dict) and prefix + key not in TABLES
        leaves |= flat(value, f"{path}.") if nested else {path: value}
    return leaves


def parse_leaf(text: str) -> tuple[str, Any]:
    """Return the path and the value of a text such as `training.steps=100`.

    The value is read as JSON, or as the text itself where it is no JSON. Raises ConfigError without a path or a value.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"got '{text}', but a setting is written key=value, such as training.steps=100")
    try:
        return path, json.loads(value, object_pairs_hook=lambda pairs: _to_table(path, pairs))
    except json.JSONDecodeError:
        return path, value
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists in lists in lists
        raise ConfigError(f"{path}: got {value[:40]}…; such a value is too long or nested too deeply") from None


def _to_table(path: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a table. Raises ConfigError if two have one name."""
    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{path}: {repeated[0]} is given twice")
    return dict(pairs)
