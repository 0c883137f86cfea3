"""Asynchronous successive halving (Li et al., 2020) in its stopping form, by evidence: a trial that is behind ends itself.

A rung is one of `training.evaluations`. Trials are compared there by the search's objectives on the same held-out images,
paired. A trial ends if 1/n of the trials there, rounded up, are ahead of it with the search's certainty. With several
objectives, it ends if as many are better by non-dominated rank, and one is ahead with that certainty in every objective.
Metrics that are not means over images, such as the pooled ECE, are compared by their values alone. Running trials leave these
values in the ledger, so the rule needs no coordinator and survives every restart.
"""

import math
from collections.abc import Mapping

from diffseg.evaluation.pareto import losses, ranks
from diffseg.evaluation.registry import METRICS
from diffseg.rows import Row
from studies.search.evidence import Lead, Scores, collect_scores, compute_leads
from studies.search.search import Rungs
from studies.store.ledger import Ledger

LEAST_TRIALS = 3  # at a rung before one is pruned

Leads = tuple[Lead, ...]  # of each objective


def record_rung(rungs: Rungs, ledger: Ledger, trial: str, step: int, rows: list[Row]) -> None:
    """Record the metrics of a trial at the rung of a step, and the objectives of each image.

    rows: What `Hooks.on_evaluation` receives.
    """
    columns = ("metric", "image", "group", "value")
    kept = [row for row in rows if "image" not in row or row["metric"] in rungs.objective]
    key = {"search": rungs.search, "step": step, "trial": trial}
    ledger.record("rungs", [key | {name: row.get(name) for name in columns} for row in kept])


def reason_to_prune(rungs: Rungs, ledger: Ledger, trial: str, step: int) -> str | None:
    """Return why a recorded trial has to end at a rung; None if it continues."""
    if not rungs.reduction:
        return None
    rows: dict[str, list[Row]] = {}
    for row in ledger.records("rungs", rungs.search):
        if row["step"] == step:
            rows.setdefault(row["trial"], []).append(row)
    reached = {name: _read_scores(own, rungs.objective) for name, own in rows.items()}
    found = find_evidence(rungs, trial, reached)
    if found is None:
        return None
    other, leads = found
    grouped = (reached[other] or reached[trial] or Scores((), ())).grouped
    return f"pruned at step {step}: {_describe(rungs.objective, other, leads, grouped)}"


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


def _read_scores(rows: list[Row], objective: tuple[str, ...]) -> Scores | None:
    means = {row["metric"]: row["value"] for row in rows if row["image"] is None}
    if (point := losses(means, objective)) is None:
        return None
    return collect_scores(point, [row for row in rows if row["image"] is not None], objective)


def _describe(objective: tuple[str, ...], other: str, leads: Leads, grouped: bool) -> str:
    """Return by how much a trial is behind another one, with the standard error."""
    if not leads:
        return f"it has not measured {' and '.join(objective)}, and {other} has"
    unit = "patients or volumes" if grouped else "images"
    words = [
        f"{lead.mean:.3g} ± {lead.error:.2g} in {metric} on {lead.units} {unit} (probability {lead.probability:.3f})"
        if lead.units
        else f"{lead.mean:.3g} in {metric}{', which is pooled' if METRICS[metric].pooled else ''}"
        for metric, lead in zip(objective, leads, strict=True)
    ]
    return f"behind {other} by {' and by '.join(words)}"
