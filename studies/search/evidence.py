"""Evidence in paired values: how surely one trial is ahead of another, and estimates that allow for luck.

Trials are compared unit by unit. A unit is a patient or volume, or an image if no group is known, so the difficulty of images
cancels and images of one patient count once. Values are losses: less is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from diffseg.evaluation.pareto import Point
from diffseg.evaluation.registry import METRICS
from diffseg.rows import Row

LEAST_UNITS = 4  # below which paired differences are no evidence

Losses = Mapping[str, float]  # by unit


@dataclass(frozen=True)
class Scores:
    """What a trial has reached in the objectives of a search."""

    means: Point
    units: tuple[Losses, ...]  # of each objective; empty if it is not a mean over images, or if they are not recorded
    grouped: bool = False  # whether units are patients or volumes


@dataclass(frozen=True)
class Lead:
    """By how much a trial is ahead of another one in an objective."""

    mean: float
    error: float  # standard error of the mean; infinite if there are too few units to say, 0 if only means are known
    units: int  # 0: only means are known

    @property
    def probability(self) -> float:
        """The probability that the trial is better on all images of the kind, not only on these.

        The posterior of the mean difference under a flat prior is Student's t with n − 1 degrees of freedom. Where only means
        are known, the better one is taken to be better.
        """
        from scipy.special import stdtr  # late, since `status` imports neither numpy nor scipy

        if self.error == 0:
            return float(self.mean > 0) if self.mean else 0.5
        return float(stdtr(max(self.units - 1, 1), self.mean / self.error))


@dataclass(frozen=True)
class Estimate:
    """A loss that is shrunk towards the mean of all trials, and its posterior standard deviation."""

    loss: float
    deviation: float  # infinite where only means are known


def collect_scores(means: Point, rows: Iterable[Row], objective: Sequence[str]) -> Scores:
    """Return a trial's scores.

    Args:
        means: The losses of the objectives.
        rows: Values of single images: metric, image, group and value. NaN is left out.
        objective: The metrics of the search. Pooled ones, which are no means over images, have no units.
    """
    values: dict[str, dict[str, list[float]]] = {metric: {} for metric in objective}
    grouped = False
    for row in rows:
        metric, value = row["metric"], row["value"]
        if metric in values and not METRICS[metric].pooled and value is not None and not math.isnan(value):
            grouped |= row["group"] is not None
            unit = row["image"] if row["group"] is None else row["group"]
            values[metric].setdefault(unit, []).append(METRICS[metric].loss(value))
    units = ({unit: fmean(some) for unit, some in own.items()} for own in values.values())
    return Scores(means, tuple(units), grouped)


def compute_leads(ahead: Scores, behind: Scores) -> tuple[Lead, ...]:
    """Return by how much one trial is ahead of another one in each objective, on the units that both have."""
    return tuple(
        _pair(one, other) if one and other else Lead(second - first, 0.0, 0)
        for first, second, one, other in zip(ahead.means, behind.means, ahead.units, behind.units, strict=True)
    )


def _pair(ahead: Losses, behind: Losses) -> Lead:
    differences = [behind[unit] - loss for unit, loss in ahead.items() if unit in behind]
    count = len(differences)
    if count < LEAST_UNITS:
        return Lead(fmean(differences) if count else 0.0, math.inf, count)
    mean = fmean(differences)
    variance = sum((one - mean) ** 2 for one in differences) / (count - 1)
    return Lead(mean, math.sqrt(variance / count), count)


def estimate_losses(scores: Sequence[Scores], place: int) -> list[Estimate]:
    """Estimate the losses of k trials in the objective at a place by empirical Bayes (normal–normal; Morris, 1983).

    A trial's mean difference d to the mean of all trials, on the units that all have, has a standard error s. The true
    differences scatter by τ² = max(0, Var d − mean s²). The share b = (k − 3)/(k − 1) s²/(s² + τ²) of d is taken to be luck: the
    estimate is (1 − b) d, with the variance (1 − b) s². A lead is shrunk the more, the noisier it is.
    """
    import numpy as np

    shared = set(scores[0].units[place]).intersection(*(one.units[place] for one in scores[1:])) if scores else set()
    if len(scores) < 3 or len(shared) < LEAST_UNITS:
        return [Estimate(one.means[place], math.inf) for one in scores]
    units = sorted(shared)
    table = np.array([[one.units[place][unit] for unit in units] for one in scores])
    differences = table - table.mean(0)
    leads, squared = differences.mean(1), differences.var(1, ddof=1) / len(units)
    scatter = max(0.0, leads.var(ddof=1) - squared.mean())
    luck = np.divide(squared, scatter + squared, out=np.zeros_like(squared), where=squared > 0)
    kept = 1 - luck * (len(scores) - 3) / (len(scores) - 1)
    deviations = np.sqrt(kept * squared)
    return [
        Estimate(float(table.mean() + share * lead), float(deviation))
        for share, lead, deviation in zip(kept, leads, deviations, strict=True)
    ]


def is_surely_better(first: Sequence[Estimate], other: Sequence[Estimate], certainty: float) -> bool:
    """Return whether one trial is better than another one in every objective, with the stated probability in each."""
    from scipy.special import ndtr

    def probability(one: Estimate, two: Estimate) -> float:
        scale = math.hypot(one.deviation, two.deviation)
        return float(ndtr((two.loss - one.loss) / scale)) if scale else float(two.loss > one.loss)

    return all(probability(one, two) >= certainty for one, two in zip(first, other, strict=True))
