"""What it would take to decide a difference that a study leaves undecided."""

import math
from collections.abc import Iterator

import numpy as np

from analysis.measurements import Sample
from analysis.statistics import LEVEL, ROUNDING
from analysis.verdicts import signed

FAR = 50  # times as many images or seeds, from which a difference counts as too small to be decided


def describe_needed(pairs: Sample, unit: float, name: str, tests: int = 1) -> Iterator[str]:
    """Yield how many test images, patients or seeds would decide a difference of the size that was found.

    Half the interval's width is √(Σ t² variance) over images (or patients) and seeds, and each variance falls with their number.
    The number is that at which half the width is the difference, the other variance as it is: so it is a rough one.

    Args:
        pairs: The differences, paired by seed and image.
        unit: A factor to the unit that is shown.
        name: That unit in words, plural.
        tests: The number of tests for which p-values are corrected; the level of the first one of Holm's holds.
    """
    if not (parts := pairs.components):
        yield "A second seed and more test images would give an interval."
        return
    squared = [part.squared_half_width(LEVEL / tests) for part in parts]
    half, difference = math.sqrt(sum(squared)), abs(float(pairs.values.to_numpy().mean()))
    counts = _name_parts(pairs)
    largest = int(np.argmax(squared))
    others = sum(squared) - squared[largest]
    room = difference**2 - others
    number, what = counts[largest]
    needed = math.ceil(number * squared[largest] / room) if room > 0 else math.inf
    if half + difference <= ROUNDING:
        yield "They are the same in every image and seed."
    elif half > math.sqrt(FAR) * difference or FAR * number < needed < math.inf:
        yield f"If there is a difference, it is most likely below {signed((half + difference) * unit, '.2g')} {name}."
    elif needed == math.inf:
        both = " and ".join(f"{math.ceil(count * (half / difference) ** 2)} {each}" for count, each in counts)
        yield f"About {both} would decide a difference of this size."
    elif needed > number:
        yield f"About {needed} {what}, where there are {number}, would decide a difference of this size."


def _name_parts(pairs: Sample) -> list[tuple[int, str]]:
    """Return the number and the name of each source of variance, in the order of `statistics.components`."""
    patients = len(pairs.groups) and pairs.units < pairs.images
    found = []
    if pairs.images and pairs.units > 1:
        found.append((pairs.units, "test patients or volumes" if patients else "test images"))
    if len(pairs.values) > 1:
        found.append((len(pairs.values), "seeds"))
    return found
