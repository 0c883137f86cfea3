"""What may vary between the trials of a study: every combination of some axes, or a space that a search draws from."""

import itertools
from collections.abc import Iterator
from typing import Any

from search_spaces.points import TRIED_FIRST
from search_spaces.spaces import SPACES

__all__ = ["SPACES", "TRIED_FIRST", "grid"]


def grid(axes: dict[str, list]) -> Iterator[dict[str, Any]]:
    """Every combination of the axes' values, the last axis varying fastest."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))
