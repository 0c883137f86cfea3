"""Parts of sentences about settings that cannot be read."""

import json
from collections.abc import Iterable
from typing import Any


def shown(value: Any) -> str:
    """A value of any kind, on one short line."""
    try:
        return json.dumps(value, default=str)[:80]
    except (ValueError, RecursionError):
        return "a value that is too long or nested too deeply"


def unknown(path: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(path, known, n=3, cutoff=0.65)
    hint = f"did you mean {' or '.join(near)}?" if near else "allowed are " + ", ".join(known)
    return f"unknown configuration key '{path}': {hint}"
