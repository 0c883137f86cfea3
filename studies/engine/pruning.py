"""Asynchronous successive halving (Li et al., 2020) in its stopping form: a trial that is behind at a rung ends itself.

A rung is one of `training.evaluations`. Trials are compared there by the search's objectives on the first few held-out
images. Running trials leave these values in the ledger, so the rule needs no coordinator and survives every restart.
"""

from diffseg.evaluation.pareto import losses, ranks
from studies.search.search import Rungs
from studies.store.ledger import Ledger


def record_rung(rungs: Rungs, ledger: Ledger, trial: str, step: int, metrics: dict[str, float]) -> None:
    """Record the metrics of a trial at the rung of a step."""
    rows = [{"search": rungs.search, "step": step, "trial": trial, "metric": m, "value": v} for m, v in metrics.items()]
    ledger.record("rungs", rows)


def reason_to_prune(rungs: Rungs, ledger: Ledger, trial: str, step: int) -> str | None:
    """Return why a recorded trial has to end at a rung; None if it continues."""
    if not rungs.reduction:
        return None
    metrics: dict[str, dict[str, float]] = {}
    for row in ledger.records("rungs", rungs.search):
        if row["step"] == step:
            metrics.setdefault(row["trial"], {})[row["metric"]] = row["value"]
    better = count_better(trial, metrics, rungs.objective)
    if survives(better, len(metrics), rungs.reduction):
        return None
    return f"pruned at step {step}: {better} of {len(metrics)} trials were better by {' and '.join(rungs.objective)}"


def count_better(trial: str, metrics: dict[str, dict[str, float]], objective: tuple[str, ...]) -> int:
    """Count the trials that are better than one: by the objective, or by non-dominated rank for several objectives.

    metrics: of each trial, by name. A trial without all objectives is the worst.
    """
    worst = (float("inf"),) * len(objective)
    points = {name: losses(values, objective) or worst for name, values in metrics.items()}
    found = dict(zip(points, ranks(list(points.values())), strict=True))
    return sum(rank < found[trial] for rank in found.values())


def survives(better: int, count: int, reduction: int) -> bool:
    """Whether a trial is among the best 1/reduction of `count` trials, rounded up.

    better: the number of better trials. The first trials at a rung are compared with few others.
    """
    return better < -(-count // reduction)
