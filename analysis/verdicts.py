"""Verdicts on claims by tests: reproduced, contradicted, inconclusive, or not decidable if trials are missing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.statistics import LEVEL, Estimate, estimate, holm

REPRODUCED, CONTRADICTED, INCONCLUSIVE, UNDECIDED = "reproduced", "contradicted", "inconclusive", "not decidable"
LISTED = 6  # comparisons in words, at most


@dataclass(frozen=True)
class Comparison:
    """The evidence for a claim on one data set and network."""

    margin: float  # positive where the claim holds
    p: float  # two-sided, of a margin of 0; NaN where it cannot be tested
    words: str

    @classmethod
    def of(cls, margins: Sequence[Estimate], words: str) -> "Comparison":
        """Return the comparison of a claim that holds where all margins are positive.

        Its p-value is the greatest of the margins. If a margin is negative, it is the least p-value of the negative ones,
        corrected for the number of margins (Bonferroni).
        """
        negative = [one for one in margins if one.mean < 0]
        if negative:
            least = min(negative, key=lambda one: np.inf if np.isnan(one.p) else one.p)
            return cls(least.mean, min(1.0, len(margins) * least.p) if not np.isnan(least.p) else np.nan, words)
        p = [one.p for one in margins]
        return cls(min(one.mean for one in margins), np.nan if np.isnan(p).any() else max(p), words)


def decide(comparisons: Sequence[Comparison], every: bool = False) -> str:
    """Return the verdict on a claim, with p-values corrected for the number of comparisons (Holm).

    The claim is reproduced, or contradicted, if more than half of the comparisons are significantly so. With `every`, for a
    claim on all cases, it is reproduced if every comparison is significantly so, and contradicted by a single one.
    """
    if not comparisons:
        return UNDECIDED
    sure = holm(np.array([one.p for one in comparisons])) < LEVEL  # NaN is not
    signs = np.sign([one.margin for one in comparisons])
    holds, fails = int((sure & (signs > 0)).sum()), int((sure & (signs < 0)).sum())
    if every:
        return REPRODUCED if holds == len(signs) else CONTRADICTED if fails else INCONCLUSIVE
    return REPRODUCED if 2 * holds > len(signs) else CONTRADICTED if 2 * fails > len(signs) else INCONCLUSIVE


def estimate_over_seeds(values: npt.ArrayLike) -> Estimate:
    """Return the mean of one value for each seed, with its interval and the test of 0 over seeds."""
    return estimate(np.asarray(values, dtype=float)[:, None])


def describe(one: Estimate, form: str, p: float | None = None) -> str:
    """Return the mean in words with its interval and p; without them for a single seed.

    Args:
        one: The estimate.
        form: The format of its numbers, such as ".3f".
        p: The p-value of the claim, if the claim is not that the mean differs from 0.
    """
    p = one.p if p is None else p
    if np.isnan(p):
        return f"{signed(one.mean, form)} (one seed, so no interval)"
    return f"{signed(one.mean, form)} ({describe_interval(one.low, one.high, p, form)})"


def describe_interval(low: float, high: float, p: float, form: str) -> str:
    """Return an interval and its p-value in words."""
    return f"{signed(low, form)} to {signed(high, form)}; {describe_p(p)}"


def describe_p(p: float) -> str:
    """Return a p-value in words."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def signed(value: float, form: str) -> str:
    """Return a number as text, with a true minus sign, and without one if it is rounded to 0."""
    text = format(value, form)
    if not any(digit in text for digit in "123456789") and text[:1] in "+-":
        return text[1:]
    return text.replace("-", "\u2212")


def list_in_words(comparisons: Sequence[Comparison]) -> str:
    """Return the words of the first LISTED comparisons, and the number of the others."""
    more = f"; and {len(comparisons) - LISTED} more" if len(comparisons) > LISTED else ""
    return "; ".join(one.words for one in comparisons[:LISTED]) + more
