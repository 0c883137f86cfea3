"""Asynchronous successive halving (Li et al., 2020), in its stopping form: a trial ends itself at a rung where it is behind.

A rung is one of `training.evaluations`. What is compared there are the search's objectives on the first few held-out
images, which running trials leave in the ledger; so the rule needs nobody who watches, and survives every restart.
"""

from studies.search.search import Rungs, fronts, losses
from studies.store.ledger import Ledger


def reached(rungs: Rungs, ledger: Ledger, trial: str, step: int, metrics: dict[str, float]) -> str | None:
    """Record what a trial has reached at a rung; say why it is to end there, or None if it goes on."""
    rows = [{"search": rungs.search, "step": step, "trial": trial, "metric": m, "value": v} for m, v in metrics.items()]
    ledger.record("rungs", rows)
    if not rungs.reduction:
        return None
    found: dict[str, dict[str, float]] = {}
    for row in ledger.records("rungs", rungs.search):
        if row["step"] == step:
            found.setdefault(row["trial"], {})[row["metric"]] = row["value"]
    behind = ahead_of(trial, found, rungs.objective)
    if goes_on(behind, len(found), rungs.reduction):
        return None
    return f"pruned at step {step}: {behind} of {len(found)} trials were better by {' and '.join(rungs.objective)}"


def ahead_of(trial: str, found: dict[str, dict[str, float]], objective: tuple[str, ...]) -> int:
    """How many trials are better than this one: by the objective, or of several by non-dominated rank."""
    worst = (float("inf"),) * len(objective)
    points = {name: losses(metrics, objective) or worst for name, metrics in found.items()}
    ranks = dict(zip(points, fronts(list(points.values())), strict=True))
    return sum(rank < ranks[trial] for rank in ranks.values())


def goes_on(ahead: int, count: int, reduction: int) -> bool:
    """Whether a trial is among the best 1/reduction of so many, itself included; the first ones compare with few."""
    return ahead < -(-count // reduction)
