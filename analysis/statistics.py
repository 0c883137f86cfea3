"""Intervals and tests for means over several seeds and the same test images, which may come in groups (patients, volumes).

Values are arrays [seeds, images]; a metric of the whole trial has one column. Seed and group are crossed random
effects, and images are nested in groups: y = μ + seed + group + seed×group + image + seed×image. The estimand is the mean
over images, so a group counts by its number of images. An image without a group is a group of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.integer[Any]]

LEVEL = 0.05  # of a test
ROUNDING = 1e-12  # a mean difference below it counts as 0, and so does a spread below this share of the mean
LEAST_P = 1e-16


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval; all but the mean are NaN if a single value gives no spread."""

    mean: float
    low: float
    high: float
    p: float  # two-sided, of a mean of 0
    effect: float  # the mean in standard deviations of the images or of the seeds, whichever vary more

    def times(self, factor: float) -> "Estimate":
        """Return the estimate in another unit."""
        return replace(self, mean=factor * self.mean, low=factor * self.low, high=factor * self.high)

    def within(self, least: float, most: float) -> "Estimate":
        """Return the estimate with the part of its interval that a mean can lie in, which covers the mean as often."""
        return replace(self, low=max(self.low, least), high=min(self.high, most))


UNKNOWN = Estimate(*[np.nan] * 5)


@dataclass(frozen=True)
class Component:
    """A part of the variance of a mean, and the degrees of freedom of its estimate."""

    variance: float
    freedom: float

    def squared_half_width(self, p: float) -> float:
        """Return its part of the squared half width of an interval that misses with probability p."""
        return float(special.stdtrit(self.freedom, 1 - p / 2)) ** 2 * self.variance


def estimate(values: Array, groups: Sequence[Any] | None = None, level: float = 0.95) -> Estimate:
    """Return the mean of values [seeds, images], its interval, and the test of a mean of 0 (for paired differences).

    The squared half width is Σ t(freedom)² variance over the components of groups and of seeds, each with its own quantile of
    Student's t. With few seeds this reaches the nominal coverage, where the single quantile of Welch and Satterthwaite covers
    too seldom. With one seed the interval covers groups only, with one group seeds only; with one of each it is NaN.

    Args:
        values: [seeds, images].
        groups: The group of each image, None for an image without one; None if no image has one.
        level: The coverage of the interval.
    """
    values = np.asarray(values, dtype=float)
    mean, parts = float(values.mean()), components(values, groups)
    if not parts:
        return Estimate(mean, *[np.nan] * 4)
    half = float(np.sqrt(_squared_half_width(parts, 1 - level)))
    spread = max(_sd(values.mean(0)), _sd(values.mean(1)))
    effect = mean / spread if spread > ROUNDING * abs(mean) else np.nan
    return Estimate(mean, mean - half, mean + half, _p_value(mean, parts), effect)


def components(values: Array, groups: Sequence[Any] | None = None) -> list[Component]:
    """Return the variance of the mean of values [seeds, images] by groups and by seeds, each only if there are two or more.

    Means by group and seed make a two-way table. Its columns vary by v = τ² + σ²/n, with τ² and σ² estimated between and
    within groups of n images. The columns' squared residuals, weighted by 1/v, scale Σ w² v, the variance of the mean by
    groups that have the shares w of the images. The row means give the variance by seeds. The variance of the interaction is
    subtracted from it, since the columns contain it already. With groups of equal size this is the two-way analysis of
    variance.
    """
    own = number_groups(groups, values.shape[1])
    table, sizes = _by_group(values, own)
    seeds, count = table.shape
    share = sizes / sizes.sum()
    variance = _group_variances(values.mean(0), own, sizes)
    of_mean = float(share**2 @ variance)
    weight = 1 / variance / (1 / variance).sum()
    rows, parts, interaction = table @ share, [], 0.0
    if count > 1:
        columns = table.mean(0) - table.mean(0) @ weight
        parts.append(Component(of_mean * float(columns**2 @ (1 / variance)) / (count - 1), count - 1))
    if seeds > 1 and count > 1:
        rest = table - table.mean(0)
        rest -= (rest @ weight)[:, None]
        scale = float((rest**2 @ (1 / variance)).sum()) / ((seeds - 1) * (count - 1))
        interaction = of_mean * scale / seeds
    if seeds > 1:
        parts.append(Component(max(0.0, float(rows.var(ddof=1)) / seeds - interaction), seeds - 1))
    return parts


def linearised_ece(gaps: Array, counts: Array) -> Array:
    """Return the pooled ECE as values of the images [images], by the infinitesimal jackknife.

    Their mean is the pooled ECE, and their spread is that of the pooled ECE when images are resampled.

    Args:
        gaps: Σ (p − y) of each image's pixels in each bin [images, bins].
        counts: The number of those pixels [images, bins].
    """
    pooled, total, pixels = gaps.sum(0), counts.sum(), counts.sum(1)
    ece = np.abs(pooled).sum() / total
    values: Array = ece + len(gaps) * (gaps @ np.sign(pooled) - ece * pixels) / total
    return values


def correlation_within(values: Array, groups: Sequence[Any]) -> tuple[float, float]:
    """Return (intra-class correlation, design effect) of images in groups, from values [seeds, images].

    Both are estimated by a one-way analysis of variance of the images' means over seeds. The design effect is the variance of
    the mean as a multiple of that of independent images: 1 + (Σn²/N − 1) × correlation. NaN if no group has two images.
    """
    means = np.asarray(values, dtype=float).mean(0)
    own = number_groups(groups, len(means))
    sizes = np.bincount(own)
    between, within = _variances(means, own, sizes)
    if not len(means) > len(sizes) > 1 or not between + within:
        return np.nan, np.nan
    correlation = between / (between + within)
    return correlation, 1 + (float((sizes**2).sum() / sizes.sum()) - 1) * correlation


def holm(p: Array) -> Array:
    """Return p-values adjusted for their number (Holm, 1979); NaN stays NaN and does not count."""
    p = np.asarray(p, dtype=float)
    adjusted, known = np.full(p.shape, np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return adjusted


def verdict(difference: float, p: float, larger_is_better: bool, alpha: float = LEVEL) -> str:
    """Return in words what a difference to the baseline amounts to; p is adjusted for the number of comparisons."""
    if np.isnan(p):
        return "not tested: one value each"
    if p >= alpha:
        return "no evidence of a difference"
    return "better" if (difference > 0) == larger_is_better else "worse"


def area_under_curve(steps: Array, values: Array) -> float:
    """Return the mean of a learning curve over its steps, from its first to its last point."""
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def steps_to(threshold: float, steps: Array, values: Array) -> float:
    """Return the step at which a rising curve first reaches a threshold, interpolated linearly; infinite if it never does."""
    above = np.flatnonzero(values >= threshold)
    if not len(above):
        return np.inf
    if (first := above[0]) == 0:
        return float(steps[0])
    span = slice(first - 1, first + 1)
    return float(np.interp(threshold, values[span], steps[span]))


def number_groups(groups: Sequence[Any] | None, count: int) -> Codes:
    """Return the number of each image's group [images], 0, 1, …; an image without a group has one of its own."""
    if groups is None:
        return np.arange(count)
    keys = [("image", k) if group is None or group != group else ("group", group) for k, group in enumerate(groups)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys])


def _by_group(values: Array, own: Codes) -> tuple[Array, Codes]:
    """Return (means [seeds, groups], images of each group [groups]) of values [seeds, images] in groups own [images]."""
    sizes = np.bincount(own)
    if len(sizes) == len(own):
        return values, sizes
    return np.stack([np.bincount(own, row) for row in values]) / sizes, sizes


def _variances(means: Array, own: Codes, sizes: Codes) -> tuple[float, float]:
    """Return the variances of images' means over seeds [images] between and within groups, by analysis of variance."""
    count, total = len(sizes), len(means)
    table = _by_group(means[None], own)[0][0]
    within = float(((means - table[own]) ** 2).sum()) / max(1, total - count)
    if count == 1:
        return 0.0, within
    between = float(sizes @ (table - means.mean()) ** 2) - (count - 1) * within
    return max(0.0, between / (total - float((sizes**2).sum()) / total)), within


def _group_variances(means: Array, own: Codes, sizes: Codes) -> Array:
    """Return the variance of each group's mean [groups], up to a factor."""
    between, within = _variances(means, own, sizes)
    found = between + within / sizes
    return found if found.sum() > 0 else 1 / sizes


def _squared_half_width(parts: list[Component], p: float) -> float:
    """Return the squared half width of an interval that misses with probability p."""
    return sum(part.squared_half_width(p) for part in parts)


def _p_value(mean: float, parts: list[Component]) -> float:
    """Return the two-sided p-value of a mean: the level 1 − p at which its interval just reaches 0.

    With one source of variance this is Student's test. With several, whose quantiles differ, log p is found by bisection.
    A mean without variance is certain: p = 0, and 1 for a mean of 0.
    """
    if abs(mean) <= ROUNDING:
        return 1.0
    if len(known := [part for part in parts if part.variance > 0]) <= 1:
        return float(2 * special.stdtr(known[0].freedom, -abs(mean) / known[0].variance ** 0.5)) if known else 0.0
    low, high = np.log(LEAST_P), 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _squared_half_width(known, np.exp(middle)) > mean**2 else (low, middle)
    return float(np.exp(high))


def _sd(values: Array) -> float:
    """Return the sample standard deviation; 0 for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
