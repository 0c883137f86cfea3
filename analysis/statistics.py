"""Intervals and tests for comparisons of trials that were made with several seeds and measured on the same images.

Values come as arrays [seeds, images]. Metrics that are not of single images, such as the ECE, have one column.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
LEVEL = 0.05  # of a test
ROUNDING = 1e-9  # of a mean, below which values count as equal


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval, NaN where one value alone says nothing of the spread."""

    mean: float
    low: float
    high: float
    p: float  # two-sided, of a mean of 0
    effect: float  # the mean in standard deviations of what varies more: images or seeds


def estimate(values: np.ndarray, level: float = 0.95, seed: int = 0) -> Estimate:
    """The mean of values [seeds, images] and its interval; of paired differences, whether there is one.

    Seeds and images are both resampled, each with replacement and crossed (Owen, 2007), which gives the standard error.
    The interval is Student's, with Welch and Satterthwaite's degrees of freedom of the two sources: with few seeds, a
    percentile of the resamples would be too narrow (Hesterberg, 2015, Sec. 5).
    """
    values = np.asarray(values, dtype=float)
    mean, freedom = float(values.mean()), _degrees_of_freedom(values)
    if not np.isfinite(freedom):
        return Estimate(mean, np.nan, np.nan, np.nan, np.nan)
    error = float(resampled_means(values, seed).std(ddof=1)) * np.sqrt((freedom + 1) / freedom)
    half = stats.t.ppf((1 + level) / 2, freedom) * error
    p = 2 * stats.t.sf(abs(mean) / error, freedom) if error else float(mean == 0)
    spread = max(_sd(values.mean(0)), _sd(values.mean(1)))
    effect = mean / spread if spread > ROUNDING * abs(mean) else np.nan
    return Estimate(mean, mean - half, mean + half, float(p), float(effect))


def resampled_means(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Means [resamples] of values [seeds, images], seeds and images drawn with replacement and crossed."""
    draw = np.random.default_rng(seed)
    counts = [draw.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n for n in values.shape]
    return np.einsum("rs,si,ri->r", counts[0], values, counts[1], optimize=True)


def holm(p: np.ndarray) -> np.ndarray:
    """P-values adjusted for their number (Holm, 1979); NaN stays NaN and does not count."""
    p = np.asarray(p, dtype=float)
    adjusted, known = np.full(p.shape, np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return adjusted


def verdict(difference: float, p: float, larger_is_better: bool, alpha: float = LEVEL) -> str:
    """What a difference to the baseline comes to, in words; p is adjusted for the number of comparisons."""
    if np.isnan(p):
        return "not tested: one value each"
    if p >= alpha:
        return "no evidence of a difference"
    return "better" if (difference > 0) == larger_is_better else "worse"


def area_under_curve(steps: np.ndarray, values: np.ndarray) -> float:
    """The mean of a learning curve over its steps, from its first to its last point."""
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def steps_to(threshold: float, steps: np.ndarray, values: np.ndarray) -> float:
    """The step at which a rising curve first reaches a threshold, between points on straight lines; infinite if never."""
    above = np.flatnonzero(values >= threshold)
    if not len(above):
        return np.inf
    if (first := above[0]) == 0:
        return float(steps[0])
    span = slice(first - 1, first + 1)
    return float(np.interp(threshold, values[span], steps[span]))


def _degrees_of_freedom(values: np.ndarray) -> float:
    """Welch and Satterthwaite's, of the means over images and the means over seeds; NaN of a single value."""
    parts = [(_sd(values.mean(1 - axis)) ** 2 / n, n - 1) for axis, n in enumerate(values.shape) if n > 1]
    total = sum(variance for variance, _ in parts)
    if not parts or not total:
        return max((n for _, n in parts), default=np.nan)
    return total**2 / sum(variance**2 / n for variance, n in parts)


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
