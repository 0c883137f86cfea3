"""What may vary between the trials of a study: every combination of some axes, or a space that a search draws from."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search_spaces.errors import SpaceError
from search_spaces.points import INITIAL_POINTS
from search_spaces.space import SHIPPED, Space, parse_space
from search_spaces.trial import SettingsTrial, draw_settings

__all__ = [
    "INITIAL_POINTS",
    "SHIPPED",
    "SettingsTrial",
    "Space",
    "SpaceError",
    "draw_settings",
    "expand_grid",
    "parse_space",
]


def expand_grid(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the axes' values, the last axis varying fastest."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))
