"""Settings by their dotted paths, `training.steps`, and as nested tables."""

from typing import Any


def flat(table: dict, prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted paths."""
    leaves = {}
    for key, value in table.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves
