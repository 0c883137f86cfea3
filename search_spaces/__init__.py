"""What may vary between the trials of a study."""

import itertools
from collections.abc import Iterator
from typing import Any


def grid(axes: dict[str, list]) -> Iterator[dict[str, Any]]:
    """Every combination of the axes' values, the last axis varying fastest."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))
