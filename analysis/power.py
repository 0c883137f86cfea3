"""What it would take to decide a difference that a study leaves undecided."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from analysis.measurements import Sample
from analysis.statistics import LEVEL, ROUNDING, Component
from analysis.verdicts import signed

FAR = 50  # times as many images or seeds, from which a difference counts as too small to be decided
POWER = 0.8  # the probability with which the number that is named decides


def describe_needed(pairs: Sample, unit: float, name: str, tests: int = 1) -> Iterator[str]:
    """Yield how many test images, patients or seeds would decide a difference of the size that was found.

    A number decides with probability POWER if the difference is at least the interval's half width and the POWER quantile of
    its estimate's error together. Each source of variance counts as in the interval: its variance falls with its number, and
    its quantile of Student's t has that number less one degrees of freedom. Since the variances are estimates, so are the numbers.

    Args:
        pairs: The differences of a metric between 0 and 1, paired by seed and image.
        unit: A factor to the unit that is shown.
        name: That unit in words, plural.
        tests: The number of tests for which p-values are corrected; the level of the first one of Holm's holds.
    """
    if not (parts := pairs.components):
        yield "A second seed and more test images would give an interval."
        return
    found, level = pairs.estimate, LEVEL / tests
    if found.p < level:
        return
    names, limit = _name_parts(pairs), max(abs(found.low), abs(found.high))
    if limit <= ROUNDING:
        yield "They are the same in every image and seed."
    elif factors := _find_factors(parts, abs(found.mean), level):
        grown = " and ".join(f"{_count(parts[k], factor)} {names[k]}" for k, factor in factors.items())
        counts = " and ".join(str(_count(parts[k])) for k in factors)
        yield (
            f"About {grown}, where there are {counts}, would decide a difference of this size with a probability of "
            f"{POWER:.0%}."
        )
    elif limit < 1:
        yield f"If there is a difference, it is most likely below {signed(limit * unit, '.1f')} {name}."
    else:
        yield f"So few {' and '.join(names)} cannot say how large a difference may be."


def _find_factors(parts: list[Component], difference: float, level: float) -> dict[int, float]:
    """Return by how much the numbers of sources of variance must grow to decide a difference, by their places in `parts`.

    Either the source that widens the interval most grows, or all do alike, whichever needs fewer images times seeds. Empty if
    neither suffices at FAR times the number.
    """
    largest = int(np.argmax([part.squared_half_width(level) for part in parts]))
    every = range(len(parts))
    found = [(own, _find_factor(parts, own, difference, level)) for own in ([largest], every)]
    known = [(factor ** len(own), dict.fromkeys(own, factor)) for own, factor in found if factor]
    return min(known, key=lambda one: one[0])[1] if known else {}


def _find_factor(parts: list[Component], growing: Sequence[int], difference: float, level: float) -> float:
    """Return by how much the number of some sources of variance must grow to decide a difference; 0 if by more than FAR."""

    def decides(factor: float) -> bool:
        grown = [_grow(part, factor) if k in growing else part for k, part in enumerate(parts)]
        widths = [sum(part.squared_half_width(p) for part in grown) ** 0.5 for p in (level, 2 * (1 - POWER))]
        return bool(sum(widths) <= difference)

    if not decides(FAR):
        return 0
    low, high = 0.0, math.log(FAR)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if decides(math.exp(middle)) else (middle, high)
    return math.exp(high)


def _count(part: Component, factor: float = 1) -> int:
    """Return the number of images, patients or seeds that a source of variance has, or would have if it grew."""
    return math.ceil((part.freedom + 1) * factor - ROUNDING)


def _grow(part: Component, factor: float) -> Component:
    """Return a source of variance of more images, patients or seeds."""
    return Component(part.variance / factor, (part.freedom + 1) * factor - 1)


def _name_parts(pairs: Sample) -> list[str]:
    """Return the name of each source of variance, in the order of `statistics.components`."""
    patients = len(pairs.groups) and pairs.units < pairs.images
    found = []
    if pairs.images and pairs.units > 1:
        found.append("test patients or volumes" if patients else "test images")
    if len(pairs.values) > 1:
        found.append("seeds")
    return found
