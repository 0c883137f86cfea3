"""Settings by their dotted paths, `training.steps`, and as nested tables."""

import json
from typing import Any

from diffseg.errors import ConfigError


def flat(table: dict, prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted paths."""
    leaves = {}
    for key, value in table.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def parse_leaf(text: str) -> tuple[str, Any]:
    """`training.steps=100` as a path and a value; values are read as JSON, or as they stand where that fails."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"got '{text}', but a setting is written key=value, such as training.steps=100")
    try:
        return path, json.loads(value)
    except json.JSONDecodeError:
        return path, value
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists in lists in lists
        raise ConfigError(f"{path}: got {value[:40]}…; such a value is too long or nested too deeply") from None
