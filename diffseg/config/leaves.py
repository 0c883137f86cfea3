"""Settings by their dotted paths, such as `training.steps`, and as nested tables."""

import json
from typing import Any

from diffseg.errors import ConfigError


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, by dotted paths."""
    leaves: dict[str, Any] = {}
    for key, value in table.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def parse_leaf(text: str) -> tuple[str, Any]:
    """Return the path and the value of a text such as `training.steps=100`.

    The value is read as JSON, or as the text itself where it is no JSON. Raises ConfigError without a path or a value.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"got '{text}', but a setting is written key=value, such as training.steps=100")
    try:
        return path, json.loads(value)
    except json.JSONDecodeError:
        return path, value
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists in lists in lists
        raise ConfigError(f"{path}: got {value[:40]}…; such a value is too long or nested too deeply") from None
