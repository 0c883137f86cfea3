"""Few combinations of choices that hold every feasible pair of them."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

Choice = dict[str, str]  # of an axis → its value


def choose_pairwise(
    axes: Mapping[str, Sequence[str]], feasible: Callable[[Choice], bool], tries: int = 60, seed: int = 0
) -> list[Choice]:
    """Return combinations of one value an axis, all feasible, in which any two values of two axes occur together.

    Pairs that no drawn combination makes feasible are left out: `missing_pairs` lists them. The same arguments choose the
    same combinations.
    """
    draw = random.Random(seed)
    open_pairs = set(_all_pairs(axes))
    chosen: list[Choice] = []
    while open_pairs:
        first = min(open_pairs)
        drawn = [{axis: draw.choice(list(values)) for axis, values in axes.items()} | dict(first) for _ in range(tries)]
        drawn.sort(key=lambda one: -len(open_pairs.intersection(_pairs(one))))
        best = next(filter(feasible, drawn), None)
        if best:
            chosen.append(best)
        open_pairs -= set(_pairs(best)) if best else {first}
    return chosen


def missing_pairs(axes: Mapping[str, Sequence[str]], chosen: Sequence[Choice]) -> set[tuple[tuple[str, str], ...]]:
    """Return the pairs of values that no chosen combination holds."""
    return set(_all_pairs(axes)) - {pair for one in chosen for pair in _pairs(one)}


def _pairs(choice: Choice) -> Iterator[tuple[tuple[str, str], ...]]:
    return itertools.combinations(sorted(choice.items()), 2)


def _all_pairs(axes: Mapping[str, Sequence[str]]) -> Iterator[tuple[tuple[str, str], ...]]:
    for first, second in itertools.combinations(sorted(axes), 2):
        for values in itertools.product(axes[first], axes[second]):
            yield (first, values[0]), (second, values[1])
