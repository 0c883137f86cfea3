"""Evidence in paired values: how surely one trial is ahead of another, and estimates that allow for luck.

Trials are compared unit by unit. A unit is a patient or volume, or an image if no group is known, so the difficulty of images
cancels and images of one patient count once. Values are losses: less is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from diffseg.evaluation.pareto import Point, ranks
from diffseg.evaluation.registry import METRICS
from diffseg.rows import Row

if TYPE_CHECKING:
    from studies.search.search import Rungs

LEAST_UNITS = 4  # below which paired differences are no evidence
LEAST_TRIALS = 3  # at a rung before one is pruned

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


Leads = tuple[Lead, ...]  # of each objective


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


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Return the scores of a configuration on several parts of the images, which have no unit in common."""
    if len(parts) == 1:
        return parts[0]
    means = tuple(map(fmean, zip(*(part.means for part in parts), strict=True)))
    units = [dict[str, float]() for _ in means]
    for part in parts:
        for own, theirs in zip(units, part.units, strict=True):
            own.update(theirs)
    return Scores(means, tuple(units), any(part.grouped for part in parts))


def compute_leads(ahead: Scores, behind: Scores) -> Leads:
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


def find_evidence(rungs: Rungs, trial: str, reached: Mapping[str, Scores | None]) -> tuple[str, Leads] | None:
    """Return a trial that is surely ahead of one that has to end, and its leads; None if that one continues.

    With one objective, it is the last of the trials that have to be ahead.

    Args:
        rungs: The rule.
        trial: The one that may have to end.
        reached: The scores of the trials at the rung; None for one that lacks an objective, which is the worst.
    """
    places = math.ceil(len(reached) / rungs.reduction)
    if len(reached) < LEAST_TRIALS or count_better(trial, reached) < places:
        return None
    own, ahead = reached[trial], list[tuple[str, Leads]]()
    for name, scores in reached.items():
        if name == trial or scores is None:
            continue
        leads = compute_leads(scores, own) if own else ()
        if all(lead.probability >= rungs.certainty for lead in leads):
            ahead.append((name, leads))
    ahead.sort(key=lambda one: [-lead.mean for lead in one[1]])
    needed = places if len(rungs.objective) == 1 else 1
    return ahead[needed - 1] if len(ahead) >= needed else None


def count_better(trial: str, reached: Mapping[str, Scores | None]) -> int:
    """Count the trials that are better than one, by their means: by non-dominated rank for several objectives."""
    size = max((len(scores.means) for scores in reached.values() if scores), default=1)
    points = [scores.means if scores else (math.inf,) * size for scores in reached.values()]
    found = dict(zip(reached, ranks(points), strict=True))
    return sum(rank < found[trial] for rank in found.values())


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
