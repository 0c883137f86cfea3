"""Pareto fronts of trials: points of one or several objectives. Less is better."""

import math
from collections.abc import Mapping, Sequence

from diffseg.evaluation.registry import METRICS

Point = tuple[float, ...]


def losses(metrics: Mapping[str, float | None], objective: Sequence[str]) -> Point | None:
    """Return the objectives, turned so that less is better; None if one of them was not measured."""
    values = []
    for name in objective:
        value = metrics.get(name)
        if value is None or math.isnan(value):
            return None
        values.append(METRICS[name].loss(value))
    return tuple(values)


def dominates(one: Point, other: Point) -> bool:
    """Return whether a point is nowhere worse than another one, and better somewhere."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def front(points: Sequence[Point]) -> list[int]:
    """Return the places of the points that no other point dominates, sorted by the points; equal points are all kept."""
    kept: list[Point] = []
    places = []
    for place in sorted(range(len(points)), key=points.__getitem__):  # a dominating point comes first
        point = points[place]
        if not any(dominates(other, point) for other in kept):
            places.append(place)
            if not kept or kept[-1] != point:
                kept.append(point)
    return places


def ranks(points: Sequence[Point]) -> list[int]:
    """Return each point's rank by non-dominated sorting (Deb et al., 2002): 0 on the front, 1 on the next one, and so on."""
    found: dict[Point, int] = {}
    for point in sorted(set(points)):  # a dominating point comes first
        found[point] = 1 + max((rank for other, rank in found.items() if dominates(other, point)), default=-1)
    return [found[point] for point in points]
