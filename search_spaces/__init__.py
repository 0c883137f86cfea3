"""What may vary between the trials of a study: every combination of some axes, or a space that a search draws from."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search_spaces.points import INITIAL_POINTS
from search_spaces.spaces import SPACES, WITH_FINGERPRINT

__all__ = ["INITIAL_POINTS", "SPACES", "WITH_FINGERPRINT", "expand_grid"]


def expand_grid(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the axes' values, the last axis varying fastest."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))
